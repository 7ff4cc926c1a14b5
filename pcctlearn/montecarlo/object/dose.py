"""Absorbed dose of a scan by analog Monte Carlo, per photon of each energy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pcctlearn.montecarlo.object.scene import TubeSpectrum, scene_of
from pcctlearn.montecarlo.object.tracking_numba import ABSORBED
from pcctlearn.montecarlo.object.transport import follow
from pcctlearn.physics.attenuation import Material
from pcctlearn.shapes import Energies, Fluence
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.validation import require_positive

_MGY_PER_keV_G = 1.602176634e-10
_LENGTH_CM = 30.0  # of the object along the axis: more of it absorbs no more scatter
_VOXEL_CM = 0.3
_N_CHUNKS = 10
_LARGEST_STEP_keV = 10.0


@dataclass(frozen=True)
class ScanDose:
    """Mean absorbed dose of a scan, in mGy, is Σ_E N(E) d(E).

    N(E) are the photons that reach a central pixel in each view without an object, d(E) is
    ``mGy_per_photon``, interpolated linearly, and ``relative_error`` its largest standard error.
    """

    energies_keV: NDArray[np.float64]
    mGy_per_photon: NDArray[np.float64]
    relative_error: float

    def per_photon(self, energies_keV: Energies) -> Energies:
        """d(E) at these energies; ValueError beyond those of the simulation."""
        first, last = self.energies_keV[[0, -1]]
        if energies_keV.min() < first or energies_keV.max() > last:
            raise ValueError(
                f"the dose was simulated from {first:g} to {last:g} keV, the spectrum has photons "
                f"of {energies_keV.min().item():g} to {energies_keV.max().item():g} keV: change "
                "lowest_keV and highest_keV of scan_dose"
            )
        found = np.interp(energies_keV.numpy(), self.energies_keV, self.mGy_per_photon)
        return torch.from_numpy(found)

    def mGy(self, energies_keV: Energies, fluence: Fluence) -> Tensor:
        """The dose of a spectrum, differentiable in its fluence."""
        return (fluence * self.per_photon(energies_keV)).sum(-1)


def scan_dose(
    maps: Float[Tensor, "material y x"],
    grid: ImageGrid,
    materials: Sequence[Material],
    geometry: FanBeam,
    lowest_keV: float = 12.0,
    highest_keV: float = 140.0,
    n_histories: int = 20_000,
    n_directions: int = 8,
    seed: int = 0,
) -> ScanDose:
    """Mean dose of a scan of an object that is the same in all slices, averaged over its mass.

    The fan irradiates a slice as high as a pixel of the detector on the axis; energy that its
    photons deposit anywhere in 30 cm of the object, scatter of any order included, over the mass of
    the slice. For a long scan of contiguous slices this is the mean absorbed dose of the irradiated
    object. Electrons and fluorescence are absorbed where they start. Pixels are square, and nothing
    shapes the beam across the fan.

    Args:
        maps, grid, materials: densities of the slice in g/cm³.
        geometry: of the scan; its views share the dose.
        lowest_keV, highest_keV: photon energies.
        n_histories: photons of each energy.
        n_directions: evenly spaced directions of the source.
    """
    require_positive(n_histories=n_histories, n_directions=n_directions)
    k = max(1, round(_VOXEL_CM / grid.voxel_cm))  # voxels of about 3 mm
    slab = _binned(maps, k)
    n_z, (n_y, n_x) = round(_LENGTH_CM / _VOXEL_CM), slab.shape[1:]
    voxel_cm = (_VOXEL_CM, k * grid.voxel_cm, k * grid.voxel_cm)
    volume_grid = VolumeGrid(n_z, n_y, n_x, voxel_cm)
    volume = slab[:, None].expand(-1, n_z, -1, -1)
    beam = ConeBeam(
        n_views=n_directions,
        n_rows=1,
        n_columns=geometry.n_columns,
        pixel_cm=geometry.pixel_cm,
        source_to_axis_cm=geometry.source_to_axis_cm,
        source_to_detector_cm=geometry.source_to_detector_cm,
    )
    panel_cm = geometry.n_columns * geometry.pixel_cm  # a tally of one pixel, which is not used
    mass_g = float(maps.sum()) * grid.voxel_cm**2 * geometry.pixel_cm / geometry.magnification
    n_energies = 1 + int(np.ceil((highest_keV - lowest_keV) / _LARGEST_STEP_keV))
    energies = np.linspace(lowest_keV, highest_keV, n_energies)
    per_chunk = -(-n_histories // (_N_CHUNKS * n_directions))
    absorbed = np.empty((n_energies, n_directions * _N_CHUNKS))  # keV per photon
    for row, energy in zip(absorbed, energies, strict=True):
        spectrum = TubeSpectrum(torch.tensor([energy]), torch.ones(1, dtype=torch.float64))
        scene = scene_of(volume, volume_grid, materials, beam, spectrum, pixel_cm=panel_cm)
        for view in range(n_directions):
            chunks = slice(view * _N_CHUNKS, (view + 1) * _N_CHUNKS)
            tally = follow(scene, scene.panel(view), seed, _N_CHUNKS, per_chunk, n_points=None)
            row[chunks] = tally.ledger[:, ABSORBED] / per_chunk
    scale = geometry.n_columns * geometry.n_views / mass_g * _MGY_PER_keV_G
    of_direction = absorbed.reshape(n_energies, n_directions, _N_CHUNKS)
    error = of_direction.std(-1, ddof=1).mean(-1) / np.sqrt(absorbed.shape[1])
    mean = absorbed.mean(-1)
    return ScanDose(energies, scale * mean, float((error / mean).max()))


def _binned(maps: Float[Tensor, "material y x"], k: int) -> Float[Tensor, "material y2 x2"]:
    """Means over blocks of k × k voxels, padded with empty voxels to whole blocks."""
    (top, bottom), (left, right) = ((p // 2, p - p // 2) for p in (-n % k for n in maps.shape[1:]))
    padded = torch.nn.functional.pad(maps, (left, right, top, bottom))
    return torch.nn.functional.avg_pool2d(padded[None], k)[0].clamp(min=0)
