"""Checks of parameters."""

from collections.abc import Sequence
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


def require_positive(**numbers: int | float) -> None:
    """Raise ValueError unless all are positive and finite, and all n_… are whole numbers."""
    for name, number in numbers.items():
        if not 0 < number < inf:
            raise ValueError(f"{name} must be positive and finite, got {number}")
        if name.startswith("n_") and number != int(number):
            raise ValueError(f"{name} must be a whole number, got {number}")


def require_finite(**numbers: float) -> None:
    """Raise ValueError for NaN and infinity."""
    for name, number in numbers.items():
        if not isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")


def require_names(name: str, values: Sequence[str], remedy: str) -> None:
    """Raise ValueError unless the values of a parameter are one or more different names."""
    if isinstance(values, str) or not values or len(set(values)) != len(values):
        raise ValueError(f"{name} must be different names, got {values!r}: use {remedy}")


def one_or_each(value: float | Sequence[float] | FloatArray, n: int) -> tuple[float, ...]:
    """A number for each of n axes, from a single number or one per axis."""
    sizes = np.asarray(value, dtype=np.float64)
    return (sizes.item(),) * n if sizes.ndim == 0 else tuple(sizes.tolist())
