"""Detector responses: events registered above an energy, per incident photon."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "base": ["Response"],
        "analytic": ["Analytic"],
        "simple": ["Gaussian", "Ideal"],
        "table": ["Table"],
        "pairs": ["Pairs"],
        "presets": ["silicon", "cdte", "silicon_monte_carlo", "cdte_monte_carlo"],
    },
)
