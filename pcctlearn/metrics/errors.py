"""Errors of results against the truth."""

from torch import Tensor


def rms(errors: Tensor) -> float:
    """√(mean of squares), in double precision."""
    return errors.double().square().mean().sqrt().item()
