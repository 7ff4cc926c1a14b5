"""Lightning modules that train scatter corrections and fit thresholds."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "chain_module": ["ChainModule"],
        "threshold_module": ["ThresholdModule"],
    },
)
