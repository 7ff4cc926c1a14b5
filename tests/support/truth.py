"""Ellipses without symmetry, their exact line integrals, and small beams."""

from dataclasses import replace
from math import cos, pi, sin

import numpy as np
import torch

from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import ImageGrid

SMALL = ImageGrid(6, 7, 0.5)
SMALL_PARALLEL = ParallelBeam(5, 11, 0.45, offset_cm=0.1)
SMALL_FAN = FanBeam(7, 12, 0.7, 5.0, 8.0, offset_cm=-0.2)
SMALL_SHORT_SCAN = replace(SMALL_FAN, arc_rad=1.5 * pi)

# x, y, half axes (cm), tilt, density
ELLIPSES = [
    (0.5, -0.7, 14.0, 11.0, 0.3, 0.2),
    (4.0, 3.0, 3.0, 2.0, 0.8, 0.15),
    (-6.0, 2.0, 1.5, 3.5, -0.4, -0.1),
    (1.0, -6.0, 2.2, 0.9, 1.2, 0.3),
    (-3.0, -4.0, 0.8, 0.8, 0.0, 0.5),
]


def to_unit_disc(vectors, half_axes, tilt):
    """Vectors (x, y) in the frame in which the centered ellipse is the unit disc."""
    c, s = cos(tilt), sin(tilt)
    return vectors @ np.array([[c, -s], [s, c]]) / np.array(half_axes)


def image(grid, ellipses, oversampling=8):
    """Mean density of the ellipses in each voxel."""
    i = (np.arange(grid.n_x * oversampling) + 0.5) / oversampling - 0.5
    j = (np.arange(grid.n_y * oversampling) + 0.5) / oversampling - 0.5
    indices = np.stack([*np.meshgrid(i, j), np.ones((len(j), len(i)))], -1)
    points = (indices @ grid.index_to_cm.T)[..., :2]
    fine = np.zeros((len(j), len(i)))
    for x, y, a, b, tilt, density in ellipses:
        fine += density * ((to_unit_disc(points - [x, y], (a, b), tilt) ** 2).sum(-1) <= 1)
    blocks = fine.reshape(grid.n_y, oversampling, grid.n_x, oversampling)
    return torch.from_numpy(blocks.mean((1, 3)))


def sinogram(beam, ellipses, oversampling=4):
    """Chord lengths times densities, averaged over each detector column."""
    n_columns = beam.n_columns
    beam = replace(beam, n_columns=n_columns * oversampling, pixel_cm=beam.pixel_cm / oversampling)
    points, directions = beam.rays()
    total = np.zeros(beam.shape)
    for x, y, a, b, tilt, density in ellipses:
        p = to_unit_disc(points - [x, y], (a, b), tilt)
        v = to_unit_disc(directions, (a, b), tilt)
        vv, pv, pp = (v * v).sum(-1), (p * v).sum(-1), (p * p).sum(-1)
        total += density * 2 * np.sqrt(np.clip(pv**2 - vv * (pp - 1), 0, None)) / vv
    return torch.from_numpy(total.reshape(-1, n_columns, oversampling).mean(-1))
