"""Photon statistics."""

import torch
from torch import Tensor


def draw_counts(expected: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent Poisson counts with these means, n_b ~ Poisson(ȳ_b)."""
    return torch.poisson(expected, generator)
