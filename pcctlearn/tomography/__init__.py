"""Linear maps between images and sinograms, their adjoints and their inverses."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "linear_operator": ["LinearOperator", "Diagonal"],
        "grids": ["ImageGrid", "VolumeGrid"],
        "geometry": ["ParallelBeam", "FanBeam", "ConeBeam"],
        "projector": ["projector"],
        "fbp": ["fbp"],
        "variance": ["fbp_variance"],
        "iterative.sirt": ["sirt", "os_sart"],
        "iterative.cgls": ["cgls"],
        "iterative.fista_tv": ["fista_tv"],
    },
    ["geometry", "iterative"],
)
