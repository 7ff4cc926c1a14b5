"""Positions of source, rotation axis and detector in parallel, fan and cone beam."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__, {"planar": ["ParallelBeam", "FanBeam"], "cone": ["ConeBeam"]}
)
