"""Cylinders of water in small scanners, for tests of photon transport."""

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from support.scanners import FOUR_BINS, SPECTRA

from pcctlearn.montecarlo.object.scene import TubeSpectrum, scene_of
from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

GRID = VolumeGrid(64, 64, 64, 0.32)
PANEL = ConeBeam(8, 16, 24, 1.6, 62.5, 109.7)  # 38.4 × 25.6 cm
CENTER = (slice(6, 10), slice(10, 14))  # 4×4 pixels
BROAD = (slice(2, 14), slice(4, 20))  # 12×16 pixels
# one photon energy, and groups for all energies after Compton scattering
SIXTY_keV = TubeSpectrum(
    torch.arange(5.0, 61.0), torch.zeros(56).index_fill(0, torch.tensor(55), 1.0)
)
ALL = torch.ones(1, 56, dtype=torch.float64)
FEW, FEW_GRID = ConeBeam(8, 8, 12, 3.2, 62.5, 109.7), VolumeGrid(32, 32, 32, 0.64)
# an accuracy that is never reached, so that max_histories determines the number of photons
SIXTEEN_CHUNKS = ObjectScatter(1e-9, pixel_cm=1.6, chunk_histories=500, max_histories=8000)


def upright(radius_cm, length_cm, grid, center_cm=(0.0, 0.0), oversampling=8):
    """A cylinder of water along z: the fraction of each voxel that it fills."""
    parts = (np.arange(oversampling) + 0.5) / oversampling - 0.5

    def positions(n, size_cm):
        return ((np.arange(n)[:, None] - (n - 1) / 2 + parts) * size_cm).ravel()

    dz, dy, dx = grid.spacing_cm
    x, y = positions(grid.n_x, dx) - center_cm[0], positions(grid.n_y, -dy) - center_cm[1]
    inside = (x**2 + y[:, None] ** 2 < radius_cm**2).astype(float)
    inside = inside.reshape(grid.n_y, oversampling, grid.n_x, oversampling).mean((1, 3))
    along = np.abs(positions(grid.n_z, dz)) < length_cm / 2
    along = along.reshape(grid.n_z, oversampling).mean(1)
    return torch.from_numpy(along[:, None, None] * inside)[None]


@cache
def water(radius_cm=8.0, length_cm=20.0):
    return scene_of(upright(radius_cm, length_cm, GRID), GRID, ["water"], PANEL, SIXTY_keV)


@cache
def small(**changes):
    maps = upright(5.0, 12.0, FEW_GRID)
    return scene_of(maps, FEW_GRID, ["water"], FEW, SIXTY_keV, **changes)


@cache
def tube():
    """A spectrum of 120 kV behind 2 mm of aluminium, one photon in total."""
    spectrum = Spectrum(
        SPECTRA / "tungsten_120kV_12deg.csv", {"aluminium": 0.2}, photons_per_pixel=1.0
    )
    return TubeSpectrum(spectrum.energies_keV, spectrum.fluence)


def ideal(energies_keV):
    """Response of a detector that counts every photon in the bin of its energy."""
    edges = [*FOUR_BINS[:-1], 1000.0]
    bins = pairwise(edges)
    return torch.stack([((energies_keV >= a) & (energies_keV < b)).double() for a, b in bins])


def of_total(tally):
    """Image of the total scatter, and its standard error."""
    values = tally.values.sum((1, 4))
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))
