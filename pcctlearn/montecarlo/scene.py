"""An object in a scanner, as the arrays that compiled photon histories run on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool3d

from pcctlearn.montecarlo.interactions import HIGHEST_keV, Interactions, interactions
from pcctlearn.montecarlo.photons import Voxels
from pcctlearn.montecarlo.tracking import Energies, Panel, majorant
from pcctlearn.physics.attenuation import Material
from pcctlearn.shapes import Energies as EnergyGrid
from pcctlearn.shapes import Fluence
from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.geometry import FanBeam
from pcctlearn.tomography.grids import VolumeGrid

WIDEST_GROUP_keV = 4.0  # 1 % of what a bin counts of scatter, by linear interpolation


@dataclass(frozen=True)
class Beam:
    """What the tube emits: photons per energy sample to a central pixel, nothing in the beam.

    Scatter is tallied at every ``stride``-th of its energies, counted from the highest; values in
    between are shared by two of them. Photons scattered below the lowest one are left out: it must
    lie below what the detector counts, with no fluence there if need be.
    """

    energies_keV: EnergyGrid
    fluence: Fluence
    stride: int = 1

    def __post_init__(self) -> None:
        steps = self.energies_keV.diff()
        even = (steps > 0).all() and torch.allclose(steps, steps[:1].expand_as(steps))
        if self.stride < 1 or not even:
            least, most = (steps.min(), steps.max()) if len(steps) else (0.0, 0.0)
            raise ValueError(
                f"energies_keV must rise, equally spaced, and stride be 1 or more, got steps from "
                f"{least:g} to {most:g} keV and stride {self.stride}"
            )
        if len(steps) and self.stride > 1 and self.stride * steps[0] > WIDEST_GROUP_keV:
            raise ValueError(
                f"groups of {self.stride * steps[0].item():g} keV are too wide for what a detector "
                f"does between them: lower group_stride to {WIDEST_GROUP_keV / steps[0].item():.0f}"
            )
        if self.fluence.shape != self.energies_keV.shape:
            raise ValueError(
                f"fluence must have one number for each of {len(self.energies_keV)} energies, got "
                f"{tuple(self.fluence.shape)}"
            )
        if not 5 <= self.energies_keV.min() <= self.energies_keV.max() < HIGHEST_keV:
            raise ValueError(
                f"the Monte Carlo knows photons of 5 to {HIGHEST_keV:g} keV, got "
                f"{self.energies_keV.min().item():g} to {self.energies_keV.max().item():g} keV"
            )
        if not (self.fluence.min() >= 0 and 0 < self.fluence.sum() < float("inf")):
            raise ValueError("fluence must be finite and not negative, and not zero everywhere")

    @property
    def groups_keV(self) -> EnergyGrid:
        """Energies at which scatter is tallied."""
        return self.energies_keV.flip(0)[:: self.stride].flip(0)


@dataclass(frozen=True)
class Scene:
    """Voxels, cross sections and energies, and the panel of every view; made by ``scene_of``."""

    geometry: ConeBeam
    beam: Beam
    voxels: Voxels
    tables: Interactions
    energies: Energies
    shape: tuple[int, int]  # rows and columns of the panel that scatter is tallied on
    margin: tuple[int, int]  # of which so many lie outside the true panel, on either side

    @property
    def pixel_cm(self) -> tuple[float, float]:
        """(row, column) of the tallied panel."""
        beam, (rows, columns), (above, beside) = self.geometry, self.shape, self.margin
        return (
            beam.n_rows * beam.row_cm / (rows - 2 * above),
            beam.n_columns * beam.column_cm / (columns - 2 * beside),
        )

    def positions_cm(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows and the columns of the tallied panel are, as in the geometry."""
        beam = self.geometry
        centers = (beam.row_offset_cm, beam.offset_cm)
        rows, columns = (
            (np.arange(n) - (n - 1) / 2) * size + center
            for n, size, center in zip(self.shape, self.pixel_cm, centers, strict=True)
        )
        return rows, columns

    def panel(self, view: int, window_cm: Sequence[float] | None = None) -> Panel:
        """One view; the beam fills the panel, or (left, right, bottom, top) of it, in cm."""
        geometry = self.geometry
        along, toward, up = geometry.frames()
        source = geometry.sources_cm()[view]
        (rows, columns), (row_cm, column_cm) = self.positions_cm(), self.pixel_cm
        if window_cm is None:
            x, y = geometry.columns_cm, geometry.rows_cm
            a, b = geometry.column_cm / 2, geometry.row_cm / 2
            window_cm = (x[0] - a, x[-1] + a, y[0] - b, y[-1] + b)
        return Panel(
            source=source,
            center=source + geometry.source_to_detector_cm * toward[view],
            along=along[view],
            toward=toward[view],
            up=np.asarray(up, np.float64),
            low=np.array([columns[0] - column_cm / 2, rows[0] - row_cm / 2]),
            pixel=np.array([column_cm, row_cm]),
            window=np.array(window_cm, np.float64),
        )

    def photons(self, panel: Panel) -> float:
        """Photons of a view if the whole window got what a central pixel of the true panel gets."""
        left, right, bottom, top = panel.window
        area = (right - left) * (top - bottom)
        return (
            float(self.beam.fluence.sum()) * area / (self.geometry.row_cm * self.geometry.column_cm)
        )


def scene_of(
    maps: Float[Tensor, "material z y x"],
    materials: Sequence[Material],
    geometry: ConeBeam,
    beam: Beam,
    pixel_cm: float | None = None,
    margin_cm: float = 0.0,
    voxel_cm: float = 0.0,
) -> Scene:
    """Put densities in g/cm³ on the geometry's volume into its beam.

    Args:
        pixel_cm: of the tallied panel, about; by default that of the geometry.
        margin_cm: how far the tallied panel goes beyond the true one on either side.
        voxel_cm: voxels are joined up to this size: scatter does not see small things.

    Raises:
        ValueError: maps that are no densities, or on another grid; sizes that are none.
    """
    if tuple(maps.shape) != (len(materials), *geometry.volume.shape):
        raise ValueError(
            f"maps must be (material, z, y, x) = {(len(materials), *geometry.volume.shape)} on the "
            f"geometry's volume, got {tuple(maps.shape)}"
        )
    if not (maps.isfinite().all() and maps.max() > 0):
        raise ValueError("maps must be finite densities in g/cm³, and not empty")
    if maps.min() < 0:
        raise ValueError(
            f"maps must not be negative, the least density is {maps.min().item():g} g/cm³: clip "
            "the volume (HU to densities cannot tell less than air)"
        )
    if pixel_cm is not None and not pixel_cm > 0:
        raise ValueError(f"pixel_cm of the tallied panel must be positive, got {pixel_cm:g}")
    for name, size in {"margin_cm": margin_cm, "voxel_cm": voxel_cm}.items():
        if not size >= 0:
            raise ValueError(f"{name} of the scene must be 0 or more, got {size:g}")
    voxels = _voxels(maps, geometry.volume, voxel_cm)
    per_gram = interactions(materials)
    unit = voxels.unit_g_cm3[:, None]
    tables = per_gram._replace(rates=per_gram.rates * unit[..., None], total=per_gram.total * unit)
    cumulative = beam.fluence.double().cumsum(0).numpy()
    groups = beam.groups_keV.double()
    energies = Energies(
        emitted=beam.energies_keV.double().numpy(),
        cumulative=cumulative / cumulative[-1],
        majorant=majorant(voxels.density, tables),
        first_group=groups[0].item(),
        group_step=(groups[1] - groups[0]).item() if len(groups) > 1 else 1.0,
    )
    true_shape = (geometry.n_rows, geometry.n_columns)
    sizes = (geometry.n_rows * geometry.row_cm, geometry.n_columns * geometry.column_cm)
    inner = [
        n if pixel_cm is None else max(1, round(size / pixel_cm))
        for n, size in zip(true_shape, sizes, strict=True)
    ]
    margin = [round(margin_cm * n / size) for n, size in zip(inner, sizes, strict=True)]
    shape = [n + 2 * extra for n, extra in zip(inner, margin, strict=True)]
    return Scene(
        geometry, beam, voxels, tables, energies, (shape[0], shape[1]), (margin[0], margin[1])
    )


def thick_fan(
    fan: FanBeam, maps: Float[Tensor, "material y x"], row_cm: float, object_cm: float
) -> tuple[ConeBeam, Float[Tensor, "material z y x"]]:
    """A fan as one thick row of a cone, and its slice as an object that long along the axis."""
    volume = VolumeGrid(
        1, fan.image.n_y, fan.image.n_x, (object_cm, fan.image.voxel_cm, fan.image.voxel_cm)
    )
    cone = ConeBeam(
        n_views=fan.n_views,
        n_rows=1,
        n_columns=fan.n_columns,
        pixel_cm=(row_cm, fan.pixel_cm),
        volume=volume,
        source_to_axis_cm=fan.source_to_axis_cm,
        source_to_detector_cm=fan.source_to_detector_cm,
        arc_rad=fan.arc_rad,
        offset_cm=fan.offset_cm,
        start_rad=fan.start_rad,
        axis_offset_cm=fan.axis_offset_cm,
        measured_angles_rad=fan.measured_angles_rad,
    )
    return cone, maps[:, None]


def _voxels(maps: Tensor, grid: VolumeGrid, voxel_cm: float) -> Voxels:
    """Ascending axes, materials last, joined to blocks no larger than voxel_cm."""
    spacing = np.array(grid.spacing_cm)
    join = [max(1, int(voxel_cm / size + 1e-6)) for size in spacing]
    ascending = maps.flip(-2).float()
    # what does not fill a block is filled with nothing, half of it on either side
    pads = [-n % k for n, k in zip(grid.shape, join, strict=True)]
    before = [pad // 2 for pad in pads]
    around = [n for a, b in zip(before[::-1], pads[::-1], strict=True) for n in (a, b - a)]
    padded = torch.nn.functional.pad(ascending, around)
    blocks = avg_pool3d(padded[None], join)[0]
    n_zyx, center = np.array(grid.shape), np.array(grid.center_cm)
    lower = center - n_zyx * spacing / 2 - np.array(before) * spacing
    density = np.ascontiguousarray(blocks.movedim(0, -1).numpy())
    unit = np.maximum(density.max((0, 1, 2)).astype(np.float64), 1e-6) / (2**16 - 1)
    return Voxels(
        density=np.rint(density / unit).astype(np.uint16),
        unit_g_cm3=unit,
        lower_cm=lower[::-1].copy(),
        size_cm=(spacing * np.array(join))[::-1].copy(),
    )
