"""Arguments that belong together, in tuples that Numba compiles."""

from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """Limits of the area densities (material), g/cm²."""

    lower: np.ndarray
    upper: np.ndarray


class FirstIterates(NamedTuple):
    """Arrays of ``profiles.Starts``."""

    first: np.ndarray
    second: np.ndarray
    sure: np.ndarray


class Limits(NamedTuple):
    """Largest shift of a minimum, g/cm², and least difference of the half deviances of two."""

    distance: float | np.float32
    gap: float | np.float32


class EasyRays(NamedTuple):
    """Least photons, and largest half deviance per photon of a ray with a single minimum."""

    least_photons: float | np.float32
    gross_misfit: float | np.float32


class Minima(NamedTuple):
    """Results to be written: x (ray, material), half the deviance there, and the fate of the ray.

    The fates are numbered in the file of each search; zero: no minimum was found.
    """

    x: np.ndarray
    value: np.ndarray
    fate: np.ndarray
