"""Photon statistics."""

import hashlib

import numpy as np
import torch
from torch import Tensor


def draw_counts(expected: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw independent Poisson counts, n_b ~ Poisson(ȳ_b).

    Exact if a photon is registered at most once. A detector with strong charge sharing counts some
    photons twice, in one bin or in two: its variance is larger by the factor E[n²]/E[n], with n
    the events of one photon, and its bins are correlated. Behind 20 cm of water, above 15 keV, the
    factor is 1.68 for the simulated CdTe and 1.05 for silicon (see
    ``physics.response.pairs.bin_covariance``).
    """
    return torch.poisson(expected, generator)


def seed_of(seed: int, name: str) -> int:
    """A seed for what has this name, whatever else is drawn with the same ``seed``."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def generator_of(seed: int, name: str) -> torch.Generator:
    """A random generator for what has this name."""
    return torch.Generator().manual_seed(seed_of(seed, name))
