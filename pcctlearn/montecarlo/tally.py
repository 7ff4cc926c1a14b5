"""Smoothing of Monte Carlo tallies and estimation of their standard error."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def smoothing_matrix(at_cm: Array, from_cm: Array, sigma_cm: float) -> Array:
    """Matrix (at, from) of a local quadratic regression with Gaussian weights.

    Rows sum to one, and parabolas are reproduced exactly up to the ends, where a Gaussian filter
    would distort even a straight line (J. Fan and I. Gijbels, "Local polynomial modelling and its
    applications", 1996). A sigma below a third of the spacing gives linear interpolation.
    """
    if len(from_cm) == 1:
        return np.ones((len(at_cm), 1))
    spacing = abs(from_cm[1] - from_cm[0])
    if sigma_cm < spacing / 3 or len(from_cm) < 3:
        return _interpolation(at_cm, from_cm)
    offset = (from_cm[None, :] - at_cm[:, None]) / sigma_cm
    weights = np.exp(-0.5 * offset**2)
    powers = np.stack([np.ones_like(offset), offset, offset**2], -1)
    moments = np.einsum("af,afp,afq->apq", weights, powers, powers)
    constant = np.linalg.inv(moments)[:, 0]  # of the parabola: its value at the point
    return weights * np.einsum("ap,afp->af", constant, powers)


def _interpolation(at_cm: Array, from_cm: Array) -> Array:
    position = np.clip((at_cm - from_cm[0]) / (from_cm[1] - from_cm[0]), 0, len(from_cm) - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(len(from_cm))))


class Accumulator:
    """Running mean over chunks of equal size and its standard error."""

    def __init__(self) -> None:
        self.n = 0
        self._mean: Array = np.zeros(())
        self._squares: Array = np.zeros(())

    def add(self, value: Array) -> None:
        """Add a chunk by the update of B. P. Welford, Technometrics 4 (1962) 419."""
        self.n += 1
        deviation = value - self._mean
        self._mean = self._mean + deviation / self.n
        self._squares = self._squares + deviation * (value - self._mean)

    @property
    def mean(self) -> Array:
        """Mean over chunks."""
        return self._mean

    @property
    def standard_error(self) -> Array:
        """Standard error of the mean, √(Σ (v − v̄)² / (n (n − 1)))."""
        return np.sqrt(self._squares / (self.n * max(self.n - 1, 1)))


def relative_noise(mean: Array, standard_error: Array) -> Array:
    """Mean ratio of standard error to scatter in each bin, where scatter > 0.3 of its maximum."""
    bright = mean > 0.3 * mean.max(axis=(-2, -1), keepdims=True)
    ratio = np.divide(standard_error, mean, out=np.zeros_like(mean), where=bright)
    return ratio.sum((-2, -1)) / np.maximum(bright.sum((-2, -1)), 1)
