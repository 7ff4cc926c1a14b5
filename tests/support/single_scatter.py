"""Single scatter of a water cylinder along z by numerical integration, without Monte Carlo.

S/S₀ = ∫ (D/r)² e^(−τ) · ρ dσ/dΩ(θ) · cos α/d² · e^(−τ') dV over the object in the beam, relative to
the flat field S₀; r is the distance from the source, D from source to panel and d to the pixel.
"""

from typing import NamedTuple

import numpy as np
import xraylib_np
from numpy.polynomial.legendre import leggauss

from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.physics.constants import ELECTRON_REST_keV

WATER = {1: 0.111894, 8: 0.888106}  # mass fractions


class Cylinder(NamedTuple):
    """Water around the axis of rotation, from −length/2 to length/2."""

    radius_cm: float
    length_cm: float

    def chord_cm(self, points, directions):
        """Distance from points inside to the surface."""
        x, y, z = np.moveaxis(points, -1, 0)
        u, v, w = np.moveaxis(directions, -1, 0)
        across = np.maximum(u * u + v * v, 1e-300)
        half = x * u + y * v
        side = np.sqrt(half**2 + across * (self.radius_cm**2 - x * x - y * y)) - half
        with np.errstate(divide="ignore"):
            cap = np.where(w == 0, np.inf, (self.length_cm / 2 - np.sign(w) * z) / np.abs(w))
        return np.minimum(side / across, cap)


def single_scatter(cylinder, energy_keV, geometry, pixels_cm, nodes=(32, 48, 48)):
    """(Compton, Rayleigh) relative to the flat field at pixels (column, row) in cm, for view 0.

    Gauss–Legendre quadrature in radius and height, equal steps in azimuth. The beam covers the
    panel.
    """
    source = np.array([0.0, -geometry.source_to_axis_cm, 0.0])
    panel_cm = geometry.source_to_detector_cm
    points, volume = _nodes(cylinder, geometry, nodes)
    before = points - source
    r = np.linalg.norm(before, axis=-1)
    before /= r[:, None]
    arriving = volume * (panel_cm / r) ** 2
    arriving *= np.exp(-_attenuation(energy_keV) * cylinder.chord_cm(points, -before))
    shares = []
    for column_cm, row_cm in pixels_cm:
        after = np.array([column_cm, source[1] + panel_cm, row_cm]) - points
        d = np.linalg.norm(after, axis=-1)
        after /= d[:, None]
        cosine = (before * after).sum(-1)
        theta, path_cm = np.arccos(np.clip(cosine, -1, 1)), cylinder.chord_cm(points, after)
        scattered_keV = energy_keV / (1 + energy_keV / ELECTRON_REST_keV * (1 - cosine))
        facing = arriving * after[:, 1] / d**2
        compton = _per_sr(xraylib_np.DCS_Compt, energy_keV, theta)
        rayleigh = _per_sr(xraylib_np.DCS_Rayl, energy_keV, theta)
        shares.append(
            [
                (facing * compton * np.exp(-_attenuation(scattered_keV) * path_cm)).sum(),
                (facing * rayleigh * np.exp(-_attenuation(energy_keV) * path_cm)).sum(),
            ]
        )
    return np.array(shares)


def _nodes(cylinder, geometry, nodes):
    """Quadrature points of the cylinder in the beam, and their volumes."""
    n_radius, n_azimuth, n_height = nodes
    a, a_weight = leggauss(n_radius)
    radius = (a + 1) / 2 * cylinder.radius_cm
    radius_weight = a_weight / 2 * cylinder.radius_cm * radius
    azimuth = 2 * np.pi * (np.arange(n_azimuth) + 0.5) / n_azimuth
    b, b_weight = leggauss(n_height)
    R, P, B = np.meshgrid(radius, azimuth, b, indexing="ij")
    x, y = R * np.sin(P), R * np.cos(P)
    depth = (y + geometry.source_to_axis_cm) / geometry.source_to_detector_cm
    high = np.minimum(geometry.n_rows * geometry.row_cm / 2 * depth, cylinder.length_cm / 2)
    if (np.abs(x) > geometry.n_columns * geometry.column_cm / 2 * depth).any():
        raise ValueError("the beam must be wider than the cylinder")
    volume = radius_weight[:, None, None] * (2 * np.pi / n_azimuth) * b_weight * high
    return np.stack([x, y, B * high], -1).reshape(-1, 3), volume.ravel()


def _attenuation(energies_keV):
    """Attenuation of water, 1/cm; for many energies by interpolation on a fine grid."""
    if np.ndim(energies_keV) == 0:
        return mass_attenuation("water", [energies_keV]).item()
    grid = np.linspace(energies_keV.min(), energies_keV.max(), 200)
    return np.interp(energies_keV, grid, mass_attenuation("water", grid.tolist()).numpy())


def _per_sr(section, energy_keV, theta):
    """ρ dσ/dΩ of water, 1/(cm sr), from xraylib by interpolation on a fine grid of angles."""
    grid = np.linspace(theta.min(), theta.max(), 2000)
    table = section(np.array(list(WATER)), np.array([energy_keV]), grid)[:, 0]
    return np.interp(theta, grid, np.array(list(WATER.values())) @ table)
