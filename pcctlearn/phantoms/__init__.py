"""Objects to scan: analytic ellipses, procedural anatomy, and patients out of CT slices."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "heads": ["head"],
        "ellipses": ["water_calcium_phantom"],
        "ellipsoids": ["head_phantom"],
    },
)
