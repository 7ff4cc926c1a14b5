"""Object, tube spectrum and panel as arrays for the transport kernels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool3d

from pcctlearn.montecarlo.interactions import HIGHEST_keV, Interactions, interactions
from pcctlearn.montecarlo.object.tracking_numba import EmissionTable, Panel, majorant
from pcctlearn.montecarlo.photons_numba import Voxels
from pcctlearn.physics.attenuation import Material
from pcctlearn.shapes import Energies, Fluence
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

MAX_GROUP_keV = 4.0  # interpolating between wider groups costs more than 1 % of a bin's scatter


@dataclass(frozen=True)
class TubeSpectrum:
    """Photons per energy sample that reach a central pixel without an object.

    Scatter is tallied at every ``stride``-th energy, counted from the highest, and interpolated
    linearly between them. Photons scattered below the lowest energy are discarded, so the energies
    must extend below the lowest threshold, with zero fluence where the tube emits nothing.
    """

    energies_keV: Energies
    fluence: Fluence
    stride: int = 1

    def __post_init__(self) -> None:
        steps = self.energies_keV.diff()
        even = (steps > 0).all() and torch.allclose(steps, steps[:1].expand_as(steps))
        if self.stride < 1 or not even:
            least, most = (steps.min(), steps.max()) if len(steps) else (0.0, 0.0)
            raise ValueError(
                "energies_keV must increase in equal steps and stride must be 1 or more, got "
                f"steps of {least:g} to {most:g} keV and stride {self.stride}"
            )
        if len(steps) and self.stride > 1 and self.stride * steps[0] > MAX_GROUP_keV:
            width, most = self.stride * steps[0].item(), MAX_GROUP_keV / steps[0].item()
            raise ValueError(
                f"energy groups of {width:g} keV are too wide to interpolate the response: "
                f"lower group_stride to {most:.0f}"
            )
        if self.fluence.shape != self.energies_keV.shape:
            raise ValueError(
                f"fluence must have one number for each of {len(self.energies_keV)} energies, got "
                f"{tuple(self.fluence.shape)}"
            )
        if not 5 <= self.energies_keV.min() <= self.energies_keV.max() < HIGHEST_keV:
            raise ValueError(
                f"the Monte Carlo transports photons of 5 to {HIGHEST_keV:g} keV, got "
                f"{self.energies_keV.min().item():g} to {self.energies_keV.max().item():g} keV"
            )
        if not (self.fluence.min() >= 0 and 0 < self.fluence.sum() < float("inf")):
            raise ValueError("fluence must be finite, not negative, and positive somewhere")

    @property
    def groups_keV(self) -> Energies:
        """Energies at which scatter is tallied."""
        return self.energies_keV.flip(0)[:: self.stride].flip(0)


@dataclass(frozen=True)
class Scene:
    """Voxels, cross sections, energies and panels for the kernels; made by ``scene_of``."""

    geometry: ConeBeam
    tallied: ConeBeam  # with the pixels in which scatter is tallied
    spectrum: TubeSpectrum
    voxels: Voxels
    tables: Interactions
    energies: EmissionTable

    def panel(self, view: int, opening_cm: Sequence[float] | None = None) -> Panel:
        """Panel of a view; the beam fills it, or the opening (left, right, bottom, top), in cm."""
        geometry, tallied = self.geometry, self.tallied
        along, toward, up = geometry.frames()
        source = geometry.sources_cm()[view]
        if opening_cm is None:
            x, y = geometry.columns_cm, geometry.rows_cm
            a, b = geometry.column_cm / 2, geometry.row_cm / 2
            opening_cm = (x[0] - a, x[-1] + a, y[0] - b, y[-1] + b)
        pixel_cm = np.array([tallied.column_cm, tallied.row_cm])
        return Panel(
            source=source,
            center=source + geometry.source_to_detector_cm * toward[view],
            along=along[view],
            toward=toward[view],
            up=np.asarray(up, np.float64),
            low=np.array([tallied.columns_cm[0], tallied.rows_cm[0]]) - pixel_cm / 2,
            pixel=pixel_cm,
            opening=np.array(opening_cm, np.float64),
        )

    def photons(self, panel: Panel) -> float:
        """Photons in a view if the whole opening received the fluence of a central pixel."""
        left, right, bottom, top = panel.opening
        area = (right - left) * (top - bottom)
        return (
            float(self.spectrum.fluence.sum())
            * area
            / (self.geometry.row_cm * self.geometry.column_cm)
        )


def scene_of(
    maps: Float[Tensor, "material z y x"],
    grid: VolumeGrid,
    materials: Sequence[Material],
    geometry: ConeBeam,
    spectrum: TubeSpectrum,
    pixel_cm: float | None = None,
    voxel_cm: float = 0.0,
) -> Scene:
    """Prepare an object for photon transport.

    Args:
        maps: densities on the grid, g/cm³.
        pixel_cm: approximate pixel size of the tallied panel; by default that of the geometry.
        voxel_cm: voxels are rebinned up to this size, since scatter varies slowly.

    Raises:
        ValueError: maps are not densities on the grid, or a size is invalid.
    """
    if tuple(maps.shape) != (len(materials), *grid.shape):
        raise ValueError(
            f"maps must be (material, z, y, x) = {(len(materials), *grid.shape)} on the grid, got "
            f"{tuple(maps.shape)}"
        )
    if not (maps.isfinite().all() and maps.max() > 0):
        raise ValueError("maps must be finite densities in g/cm³, positive somewhere")
    if maps.min() < 0:
        raise ValueError(
            f"maps must not be negative, the lowest density is {maps.min().item():g} g/cm³: clip "
            "the CT volume at −1000 HU"
        )
    if pixel_cm is not None and not pixel_cm > 0:
        raise ValueError(f"pixel_cm of the tallied panel must be positive, got {pixel_cm:g}")
    if not voxel_cm >= 0:
        raise ValueError(f"voxel_cm of the scene must be 0 or more, got {voxel_cm:g}")
    voxels = _voxels(maps, grid, voxel_cm)
    per_gram = interactions(materials)
    unit = voxels.unit_g_cm3[:, None]
    tables = per_gram._replace(rates=per_gram.rates * unit[..., None], total=per_gram.total * unit)
    cumulative = spectrum.fluence.double().cumsum(0).numpy()
    groups = spectrum.groups_keV.double()
    energies = EmissionTable(
        emitted=spectrum.energies_keV.double().numpy(),
        cumulative=cumulative / cumulative[-1],
        majorant=majorant(voxels.density, tables),
        first_group=groups[0].item(),
        group_step=(groups[1] - groups[0]).item() if len(groups) > 1 else 1.0,
    )
    true_shape = (geometry.n_rows, geometry.n_columns)
    sizes = (geometry.n_rows * geometry.row_cm, geometry.n_columns * geometry.column_cm)
    n_rows, n_columns = (
        n if pixel_cm is None else max(1, round(size / pixel_cm))
        for n, size in zip(true_shape, sizes, strict=True)
    )
    pixels_cm = [sizes[0] / n_rows, sizes[1] / n_columns]
    tallied = replace(geometry, n_rows=n_rows, n_columns=n_columns, pixel_cm=pixels_cm)
    return Scene(geometry, tallied, spectrum, voxels, tables, energies)


def _voxels(maps: Tensor, grid: VolumeGrid, voxel_cm: float) -> Voxels:
    """Rebin to voxels no larger than voxel_cm; axes ascending, materials last."""
    spacing = np.array(grid.spacing_cm)
    factors = [max(1, int(voxel_cm / size + 1e-6)) for size in spacing]
    ascending = maps.flip(-2).float()
    # padded on both sides with empty voxels to whole blocks
    pads = [-n % k for n, k in zip(grid.shape, factors, strict=True)]
    before = [pad // 2 for pad in pads]
    around = [n for a, b in zip(before[::-1], pads[::-1], strict=True) for n in (a, b - a)]
    padded = torch.nn.functional.pad(ascending, around)
    blocks = avg_pool3d(padded[None], factors)[0]
    n_zyx, center = np.array(grid.shape), np.array(grid.center_cm)
    lower = center - n_zyx * spacing / 2 - np.array(before) * spacing
    density = np.ascontiguousarray(blocks.movedim(0, -1).numpy())
    unit = np.maximum(density.max((0, 1, 2)).astype(np.float64), 1e-6) / (2**16 - 1)
    return Voxels(
        density=np.rint(density / unit).astype(np.uint16),
        unit_g_cm3=unit,
        lower_cm=lower[::-1].copy(),
        size_cm=(spacing * np.array(factors))[::-1].copy(),
    )
