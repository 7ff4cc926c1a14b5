"""Tables of photon interactions: rates, scattering angles and characteristic lines.

Rates and angular distributions are from xraylib (T. Schoonjans et al., Spectrochim. Acta B 66
(2011) 776): photoelectric, incoherent (Klein–Nishina times the scattering function S(x)) and
coherent (Thomson times the squared form factor F(x)²). For heavy elements the integral of the
coherent differential cross section is up to 4 % below the coherent rate, so rates and
distributions are taken from separate tables.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import xraylib
import xraylib_np
from numpy.typing import NDArray

from pcctlearn.physics.attenuation import NAMED_MATERIALS, Material
from pcctlearn.physics.constants import K_LINES

RATE_STEP_keV = 0.5  # linear interpolation: error 0.1 % of the photoelectric rate at 20 keV
ANGLE_STEP_keV = 1.0
LOWEST_keV, HIGHEST_keV = 1.0, 160.0
_N_QUANTILES = 257
_N_SHAPE = 257  # samples in sin(θ/2), where the shapes are smooth
PHOTOELECTRIC, COMPTON, RAYLEIGH = range(3)

Array = NDArray[np.float64]


class Interactions(NamedTuple):
    """Tables of several materials, in the layout that the transport kernels read.

    All start at LOWEST_keV. ``cosines`` and ``shapes`` are for Compton and Rayleigh scattering.

    Args:
        rates: (material, process, energy) cm²/g, every RATE_STEP_keV.
        total: (material, energy) cm²/g, their sum.
        cosines: (material, process − 1, energy, quantile), cos θ at equal steps of cumulative
            probability, every ANGLE_STEP_keV.
        shapes: (material, process − 1, energy, sin(θ/2)) 1/sr, every ANGLE_STEP_keV.
    """

    rates: Array
    total: Array
    cosines: Array
    shapes: NDArray[np.float32]


class Fluorescence(NamedTuple):
    """K fluorescence of the elements of a material, at the energies of ``Interactions.rates``.

    Args:
        shares: (element, energy), fraction of photoelectric events in this element.
        k_shares: (element, energy), fraction of these events in the K shell.
        yields: (element), fluorescence yield of the K shell.
        lines_keV: (element, line).
        line_shares: (element, line), relative intensity.
        edges_keV: (element).
    """

    shares: Array
    k_shares: Array
    yields: Array
    lines_keV: Array
    line_shares: Array
    edges_keV: Array


def interactions(materials: Sequence[Material]) -> Interactions:
    """Tables of these materials; ValueError for a material unknown to xraylib."""
    tables = [_tables(_key(material)) for material in materials]
    columns = zip(*tables, strict=True)
    return Interactions(*(np.ascontiguousarray(np.stack(column)) for column in columns))


def rate_energies_keV() -> Array:
    """Energies of the tables of rates."""
    return np.arange(LOWEST_keV, HIGHEST_keV + RATE_STEP_keV / 2, RATE_STEP_keV)


def angle_energies_keV() -> Array:
    """Energies of the angular tables."""
    return np.arange(LOWEST_keV, HIGHEST_keV + ANGLE_STEP_keV / 2, ANGLE_STEP_keV)


def fluorescence(material: Material) -> Fluorescence:
    """K lines, fluorescence yields and jump ratios of the elements of a material."""
    energies = rate_energies_keV()
    elements = composition(material)
    photo = np.array(
        [[weight * xraylib.CS_Photo(Z, e) for e in energies] for Z, weight in elements.items()]
    )
    edges = np.array([xraylib.EdgeEnergy(Z, xraylib.K_SHELL) for Z in elements])
    k_shares = np.array(
        [
            [
                xraylib.CS_Photo_Partial(Z, xraylib.K_SHELL, e) / xraylib.CS_Photo(Z, e)
                if e > edge
                else 0.0
                for e in energies
            ]
            for Z, edge in zip(elements, edges, strict=True)
        ]
    )
    rates = np.array([[_rate(Z, line) for line in K_LINES] for Z in elements])
    return Fluorescence(
        shares=photo / photo.sum(0),
        k_shares=k_shares,
        yields=np.array([xraylib.FluorYield(Z, xraylib.K_SHELL) for Z in elements]),
        lines_keV=np.array([[_line_keV(Z, line) for line in K_LINES] for Z in elements]),
        line_shares=rates / rates.sum(1, keepdims=True),
        edges_keV=edges,
    )


def composition(material: Material) -> dict[int, float]:
    """Mass fraction of every element, by atomic number."""
    if isinstance(material, Mapping):
        total, elements = sum(material.values()), dict[int, float]()
        for part, fraction in material.items():
            for Z, weight in composition(part).items():
                elements[Z] = elements.get(Z, 0.0) + fraction / total * weight
        return elements
    name = NAMED_MATERIALS.get(material, material)
    try:
        parsed = xraylib.CompoundParser(name)
    except ValueError:
        try:
            parsed = xraylib.GetCompoundDataNISTByName(name)
        except ValueError:
            raise ValueError(
                f"unknown material {material!r}: use a formula such as 'H2O', a NIST compound "
                f"name, or one of {', '.join(NAMED_MATERIALS)}"
            ) from None
    return dict(zip(parsed["Elements"], parsed["massFractions"], strict=True))


def _key(material: Material) -> str | tuple[tuple[str, float], ...]:
    return material if isinstance(material, str) else tuple(material.items())


@lru_cache(maxsize=32)
def _tables(key: str | tuple[tuple[str, float], ...]) -> tuple[NDArray[np.floating], ...]:
    elements = composition(key if isinstance(key, str) else dict(key))
    Z, weights = np.array(list(elements), np.int64), np.array(list(elements.values()))
    energies = rate_energies_keV()
    rates = np.stack(
        [
            weights @ section(Z, energies)
            for section in (xraylib_np.CS_Photo, xraylib_np.CS_Compt, xraylib_np.CS_Rayl)
        ]
    )
    angular = [
        _angular(Z, weights, section) for section in (xraylib_np.DCS_Compt, xraylib_np.DCS_Rayl)
    ]
    cosines, shapes = (np.stack(parts) for parts in zip(*angular, strict=True))
    return rates, rates.sum(0), cosines, shapes


def _angular(Z: NDArray[np.int64], weights: Array, section) -> tuple[Array, NDArray[np.float32]]:
    """cos θ at equal steps of cumulative probability, and probability per steradian."""
    # more samples near 0, where coherent scattering peaks
    fine = np.unique(np.concatenate([np.linspace(0, 0.05, 401), np.linspace(0.05, 1, 1601)]))
    theta = np.maximum(2 * np.arcsin(fine), 1e-6)
    density = np.tensordot(weights, section(Z, angle_energies_keV(), theta), axes=1)
    # with s = sin(θ/2), dΩ = 8 π s ds
    weighed = 8 * np.pi * fine * density
    steps = 0.5 * (weighed[:, 1:] + weighed[:, :-1]) * np.diff(fine)
    cumulative = np.concatenate([np.zeros_like(steps[:, :1]), steps.cumsum(1)], 1)
    total = cumulative[:, -1:]
    quantiles = np.linspace(0, 1, _N_QUANTILES)
    cosines = [
        # interpolated in s², which is linear in the quantile for isotropic scattering
        1 - 2 * np.interp(quantiles, row / row[-1], fine**2)
        for row in cumulative
    ]
    at = np.linspace(0, 1, _N_SHAPE)
    shapes = [np.interp(at, fine, row) for row in density / total]
    return np.array(cosines), np.array(shapes, np.float32)  # single precision, to fit the cache


def _rate(Z: int, line: int) -> float:
    try:
        return xraylib.RadRate(Z, line)
    except ValueError:  # the element has no such line
        return 0.0


def _line_keV(Z: int, line: int) -> float:
    try:
        return xraylib.LineEnergy(Z, line)
    except ValueError:
        return 0.0
