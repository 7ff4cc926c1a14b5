"""Lightning modules that train scatter corrections and proxies, and fit thresholds."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "chain_module": ["ChainModule"],
        "proxy_module": ["ProxyModule"],
        "threshold_module": ["ThresholdModule"],
    },
)
