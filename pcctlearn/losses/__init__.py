"""Losses on any stage of the chain."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "stage": ["StageLoss", "TotalLoss"],
        "counts": ["NoisyCountsLoss"],
        "likelihood": ["MisfitLoss", "DevianceLoss", "ScanDevianceLoss"],
        "regions": ["RegionMeans"],
        "sobolev": ["SobolevLoss"],
    },
)
