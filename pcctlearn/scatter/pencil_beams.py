"""Scatter kernels of a scanner, fitted to simulated pencil beams through slabs of water."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from pcctlearn.montecarlo.object.scene import Scene, TubeSpectrum, scene_of
from pcctlearn.montecarlo.object.transport import follow
from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.scatter.kernel import KernelScatter
from pcctlearn.scatter.kernel_parameters import KERNEL, KernelParameters
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

THICKNESSES_cm = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0)
_RADIUS_cm = 30.0  # largest radius of the profiles on the panel
_RING_cm = 1.2  # width of a ring
_PENCIL_cm = 0.4  # side length of the beam on the panel
_N_CHUNKS = 16
_RATES = np.geomspace(0.5, 4.0, 16)  # attenuation relative to that of the highest bin

Array = NDArray[np.floating]


class PencilProfiles(NamedTuple):
    """Scatter of a pencil beam behind slabs.

    transmission (bin, slab): primary over the open beam. radii_cm (ring): radii on the panel.
    scatter_per_cm2 and standard_error (bin, slab, ring): over the open beam of the bin, per cm² of
    the panel.
    """

    thicknesses_cm: Array
    transmission: Array
    radii_cm: Array
    scatter_per_cm2: Array
    standard_error: Array


def pencil_beam_kernels(
    geometry: ConeBeam,
    model: SpectralModel,
    thicknesses_cm: Sequence[float] = THICKNESSES_cm,
    borders_cm: Sequence[float] = (6.0, 12.0),
    n_histories: int = 64_000,
    grid_transmission: float | Sequence[float] = 1.0,
    seed: int = 0,
) -> KernelScatter:
    """``KernelScatter`` with kernels fitted to simulated pencil beams of this scanner."""
    parameters = fit_kernels(
        geometry, model, thicknesses_cm, borders_cm, seed=seed, n_histories=n_histories
    )
    return KernelScatter(geometry, model, parameters, grid_transmission)


def fit_kernels(
    geometry: ConeBeam,
    model: SpectralModel,
    thicknesses_cm: Sequence[float] = THICKNESSES_cm,
    borders_cm: Sequence[float] = (6.0, 12.0),
    seed: int = 0,
    n_histories: int = 64_000,
    width_cm: float = 16.0,
    group_stride: int = 2,
) -> KernelParameters:
    """Kernels of every bin and thickness group; the same seed gives the same kernels.

    Args:
        geometry: distances of source, axis and panel; the slabs are centered on the axis.
        model: spectrum, response and thresholds.
        thicknesses_cm: thicknesses of the slabs.
        borders_cm: borders of the groups; each group is fitted to the slabs from border to border,
            both included.
        n_histories: photons through each slab.
        width_cm: width of the slabs across the beam, about that of the objects, because scatter
            escapes through their sides.
        group_stride: scatter is tallied at every group_stride-th energy of the spectrum.
    """
    profiles = pencil_profiles(
        geometry, model, thicknesses_cm, seed, n_histories, width_cm, group_stride
    )
    edges = model.thresholds.edges_keV.detach().flatten().tolist()
    passport = {
        "source": "own simulation, pcctlearn.scatter.pencil_beams: pencil beams through water",
        "thresholds_keV": " ".join(f"{edge:g}" for edge in edges),
        "source_to_axis_cm": f"{geometry.source_to_axis_cm:g}",
        "thicknesses_cm": " ".join(f"{thickness:g}" for thickness in thicknesses_cm),
        "width_cm": f"{width_cm:g}",
        "histories": f"{n_histories} for each slab",
        "seed": str(seed),
    }
    return fit_profiles(profiles, borders_cm, geometry.source_to_detector_cm, passport)


def pencil_profiles(
    geometry: ConeBeam,
    model: SpectralModel,
    thicknesses_cm: Sequence[float],
    seed: int,
    n_histories: int,
    width_cm: float = 16.0,
    group_stride: int = 2,
) -> PencilProfiles:
    """Simulate scatter behind slabs of water by distance from the beam."""
    if not (len(thicknesses_cm) > 0 and min(thicknesses_cm) > 0 and width_cm > 0):
        raise ValueError(
            f"thicknesses_cm and width_cm of the slabs must be positive, got "
            f"{list(thicknesses_cm)} and {width_cm:g}"
        )
    if model.thresholds.edges_keV.ndim > 1:
        raise ValueError(
            "scatter kernels need thresholds that all pixels share, and this detector has "
            "thresholds per pixel: choose scatter=network with scatter.checkpoint, or scatter=none"
        )
    beam = TubeSpectrum(model.energies_keV, model.fluence, group_stride)
    edges = model.thresholds.edges_keV.detach()
    above = model.response.above(edges, beam.groups_keV).detach()
    registered = (above[:-1] - above[1:]).numpy()
    open_beam = model.air().detach().numpy()
    per_chunk = max(1, math.ceil(n_histories / _N_CHUNKS))
    means, errors = [], []
    for i, thickness_cm in enumerate(thicknesses_cm):
        scene = _slab(geometry, beam, thickness_cm, width_cm)
        half = _PENCIL_cm / 2
        panel = scene.panel(0, (-half, half, -half, half))
        slab_seed = int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint32)[0])
        values = follow(scene, panel, slab_seed, _N_CHUNKS, per_chunk).values[:, 0] @ registered.T
        row_cm, column_cm = scene.tallied.row_cm, scene.tallied.column_cm
        beam_counts = open_beam * _PENCIL_cm**2 / (row_cm * column_cm)
        rings = _rings(scene) @ values.reshape(_N_CHUNKS, -1, len(open_beam))
        rings = rings / (beam_counts * row_cm * column_cm)
        means.append(rings.mean(0))
        errors.append(rings.std(0, ddof=1) / math.sqrt(_N_CHUNKS))
    water = mass_attenuation("water", model.energies_keV)[None]
    thickness = torch.tensor(thicknesses_cm, dtype=torch.float64)[:, None]
    primary = expected_counts(thickness, model.spectra().detach(), water).numpy()
    radii = (np.arange(round(_RADIUS_cm / _RING_cm)) + 0.5) * _RING_cm
    return PencilProfiles(
        np.array(thicknesses_cm, np.float64),
        (primary / open_beam).T,
        radii,
        np.stack(means).transpose(2, 0, 1),
        np.stack(errors).transpose(2, 0, 1),
    )


def fit_profiles(
    profiles: PencilProfiles,
    borders_cm: Sequence[float],
    source_to_detector_cm: float,
    passport: dict[str, str] | None = None,
) -> KernelParameters:
    """Least squares over slabs and rings for each bin and group, relative to the peak.

    Squared residuals are weighted by the radius of their ring, which is proportional to its pixels.
    """
    thicknesses, highest = profiles.thicknesses_cm, profiles.transmission[-1]
    depth = -np.log(highest)
    limits = [0.0, *borders_cm, math.inf]
    fits = []
    for low, high in pairwise(limits):
        chosen = (thicknesses >= low) & (thicknesses <= high)
        if chosen.sum() < 3:
            raise ValueError(
                f"between {low:g} and {high:g} cm there are {chosen.sum()} slabs, and a kernel "
                "needs three: give more thicknesses_cm, or fewer borders_cm"
            )
        per_primary = profiles.scatter_per_cm2[:, chosen] / highest[chosen, None]
        fits.append([_fitted(depth[chosen], profiles.radii_cm, each) for each in per_primary])
    kernel = torch.tensor(np.array(fits)).movedim(0, 1).unbind(-1)
    weights = [_water_weights(depth, each) for each in profiles.transmission]
    return KernelParameters(
        **dict(zip(KERNEL, kernel, strict=True)),
        water_rates=torch.from_numpy(_RATES),
        water_weights=torch.from_numpy(np.stack(weights)),
        borders_cm=tuple(map(float, borders_cm)),
        water_per_cm=float((depth * thicknesses).sum() / (thicknesses**2).sum()),
        source_to_detector_cm=source_to_detector_cm,
        passport=passport or {},
    )


def _water_weights(depth: Array, transmission: Array) -> Array:
    """w ≥ 0 of T ≈ Σ_k w_k exp(−a_k L) with Σ w = 1, by least squares of relative errors."""
    depths, relative = np.append(0.0, depth), np.append(1.0, transmission)
    terms = np.exp(-_RATES * depths[:, None]) / relative[:, None]
    weights, _ = nnls(terms, np.ones(len(depths)))
    return weights / weights.sum()


def _fitted(depth: Array, radii_cm: Array, per_primary: Array) -> list[float]:
    """A, α, β, σ1, B, σ2 and the residual of profiles (slab, ring) per primary photon."""
    peak = per_primary.max(1, keepdims=True)
    weights = np.sqrt(radii_cm / radii_cm.mean()) / peak

    def kernel(p: Array) -> Array:
        amplitude = np.exp(p[0] - p[1] * depth) * depth ** p[2]
        squared = radii_cm**2
        shape = np.exp(-squared / (2 * p[3] ** 2)) + p[4] * np.exp(-squared / (2 * p[5] ** 2))
        return amplitude[:, None] * shape

    start = [math.log(peak.max()), -0.1, 1.0, 4.0, 0.5, 15.0]
    limits = ([-30, -4, 0.05, 1.0, 0.0, 6.0], [5, 3, 3, 6.0, 20.0, 60.0])
    fit = least_squares(
        lambda p: ((kernel(p) - per_primary) * weights).ravel(), start, bounds=limits, x_scale="jac"
    )
    residual = float(np.sqrt(np.mean(((kernel(fit.x) - per_primary) / peak) ** 2)))
    return [math.exp(fit.x[0]), *fit.x[1:].tolist(), residual]


def _slab(geometry: ConeBeam, beam: TubeSpectrum, thickness_cm: float, width_cm: float) -> Scene:
    """A slab of water across the central ray, and a panel large enough for the profiles."""
    size = (width_cm, thickness_cm / 4, width_cm / 8)
    n = 2 * round(_RADIUS_cm / _RING_cm)
    scanner = replace(
        geometry,
        n_views=1,
        n_rows=n,
        n_columns=n,
        pixel_cm=2 * _RADIUS_cm / n,
        offset_cm=0.0,
        row_offset_cm=0.0,
        start_rad=0.0,
        axis_offset_cm=0.0,
        view_angles_rad=None,
    )
    return scene_of(torch.ones(1, 1, 4, 8), VolumeGrid(1, 4, 8, size), ["water"], scanner, beam)


def _rings(scene: Scene) -> Array:
    """Mean over the pixels of each ring around the center of the panel: (ring, pixel)."""
    radii = np.hypot(scene.tallied.rows_cm[:, None], scene.tallied.columns_cm).ravel()
    n = round(_RADIUS_cm / _RING_cm)
    inside = np.arange(n)[:, None] == np.floor(radii / _RING_cm)
    return inside / inside.sum(1, keepdims=True)
