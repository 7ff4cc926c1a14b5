"""What an object scatters into the counts, estimated from the counts themselves."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "network": ["ScatterNetwork"],
        "kernel": ["KernelScatter"],
        "uniform": ["UniformScatter"],
    },
)
