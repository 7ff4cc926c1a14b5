"""Photon statistics."""

import hashlib

import numpy as np
import torch
from torch import Tensor


def draw_counts(expected: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw independent Poisson counts, n_b ~ Poisson(ȳ_b).

    This is exact if each photon is registered at most once. With charge sharing some photons are
    counted twice, in one bin or in two: the variance increases by the factor E[n²]/E[n], with n
    events per photon, and bins are correlated. Behind 20 cm of water, above 15 keV, the factor is
    1.68 for the simulated CdTe and 1.05 for silicon (``physics.response.pairs.bin_covariance``).
    """
    return torch.poisson(expected, generator)


def seed_of(seed: int, name: str) -> int:
    """Seed of the item with this name, independent of other items with the same ``seed``."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def generator_of(seed: int, name: str) -> torch.Generator:
    """Random generator of the item with this name."""
    return torch.Generator().manual_seed(seed_of(seed, name))
