"""Scatter corrections: the scattered fraction of the counts, estimated from the counts."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "base": ["ScatterCorrection"],
        "network": ["ScatterNetwork"],
        "kernel": ["KernelScatter"],
        "pencil_beams": ["pencil_beam_kernels"],
        "uniform": ["UniformScatter"],
    },
)
