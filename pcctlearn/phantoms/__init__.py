"""Objects to scan: analytic ellipses and procedural anatomy; placement of CT volumes on a grid."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "heads": ["head"],
        "ellipses": ["water_calcium_phantom"],
        "ellipsoids": ["head_phantom"],
    },
)
