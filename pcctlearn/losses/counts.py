"""A loss on corrected counts in units of their noise."""

from torch import Tensor

from pcctlearn.losses.stage import Loss
from pcctlearn.scan import Scan


class NoisyCountsLoss(Loss):
    """weight · mean of (y − s − r)² / (y + r), for scatter s, measured y and scatter-free r.

    y and r are photons of two scans of the same dose with independent Poisson noise
    (reference=independent), and y + r estimates the variance of y − s − r. The weights do not
    depend on s, so that noise hardly moves the minimum: it lies at s = s̄ (1 − 1/(ȳ + r̄)). With a
    reference of less noise it lies about half a photon too low: use losses=direct there.
    """

    stage = "corrected_counts"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, predicted: Scan, target: Scan) -> Tensor:
        """Compare the corrected counts with those of the reference."""
        reference = target.at("corrected_counts")
        variance = (predicted.at("counts") + reference).clamp(min=1.0)
        difference = predicted.at("corrected_counts") - reference
        return self.weight * (difference.square() / variance).mean()
