"""Where source, rotation axis and detector are: parallel, fan and cone beam."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__, {"planar": ["ParallelBeam", "FanBeam"], "cone": ["ConeBeam"]}
)
