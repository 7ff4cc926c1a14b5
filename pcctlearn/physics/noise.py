"""Photon statistics."""

import torch
from torch import Tensor


def draw_counts(expected: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent Poisson counts with these means, n_b ~ Poisson(ȳ_b).

    Exact where a photon is registered at most once. A detector with strong charge sharing counts
    some photons twice, in one bin or in two: its true variance is larger than this one by
    E[n²]/E[n], n the registrations of one photon, and its bins are correlated. Behind 20 cm of
    water, above 15 keV, that is 1.68 for the simulated CdTe and 1.05 for silicon. Their covariance
    is ``physics.response.pairs.bin_covariance``.
    """
    return torch.poisson(expected, generator)
