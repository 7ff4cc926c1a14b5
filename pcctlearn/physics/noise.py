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


def unscattered(
    counts: Tensor, scatter_fraction: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Which of these photons had not scattered, k_b ~ Binomial(n_b, 1 − f_b).

    Of Poisson counts with mean ȳ_b they are themselves Poisson, with mean (1 − f_b) ȳ_b. Counts
    that are no whole numbers, as expected ones, are thinned to their mean.
    """
    whole = counts.round()
    if not torch.equal(whole, counts):
        return counts * (1 - scatter_fraction)
    return torch.binomial(whole, 1 - scatter_fraction, generator)
