"""Photon statistics."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def draw_counts(expected: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw independent Poisson counts, n_b ~ Poisson(ȳ_b).

    This is exact if each photon is registered at most once. With charge sharing some photons are
    counted twice, in one bin or in two (``draw_correlated``): the variance increases by the factor
    E[n²]/E[n], with n events per photon, and bins are correlated. Behind 20 cm of water, above
    15 keV, the factor is 1.68 for the simulated CdTe and 1.05 for silicon
    (``physics.response.pairs.bin_covariance``).
    """
    return torch.poisson(expected, generator)


def draw_correlated(
    expected: Float[Tensor, "*ray bin"],
    together: Float[Tensor, "*ray bin bin"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*ray bin"]:
    """Draw counts of photons that may be registered more than once, in one bin or in two.

    They are whole numbers with mean ȳ and covariance diag ȳ + Λ (``response.pairs.pair_counts``):
    sums of independent Poisson numbers of photons that count once, twice in one bin, once in each
    of two bins, and, where Λ_bb asks for more than all counts, three times in one bin. Higher
    moments are those of this mixture.

    Args:
        expected: ȳ.
        together: Λ.
        generator: of the draws.

    Raises:
        ValueError: Λ is greater than such photons can make.
    """
    within = together.diagonal(dim1=-2, dim2=-1)
    apart = together - torch.diag_embed(within)
    thrice = (apart.sum(-1) + within - expected).clamp(min=0) / 3
    twice = within / 2 - 3 * thrice
    once = expected - apart.sum(-1) - 2 * twice - 3 * thrice
    least = -1e-6 * expected.abs().amax(-1, keepdim=True)
    if bool((twice < least).any()) or bool((once < least).any()):
        raise ValueError(
            "the pairs of events exceed what photons counted up to three times can make: give the "
            "pairs that were simulated with the response (the _pairs.npz beside its table)"
        )

    def draw(mean: Tensor) -> Tensor:
        return torch.poisson(mean.clamp(min=0), generator)

    counts = draw(once) + 2 * draw(twice) + 3 * draw(thrice)
    n_bins = expected.shape[-1]
    for b in range(n_bins):
        for c in range(b):
            events = draw(apart[..., b, c])
            counts[..., b] += events
            counts[..., c] += events
    return counts


def seed_of(seed: int, name: str) -> int:
    """Seed of the item with this name, independent of other items with the same ``seed``."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def generator_of(seed: int, name: str) -> torch.Generator:
    """Random generator of the item with this name."""
    return torch.Generator().manual_seed(seed_of(seed, name))
