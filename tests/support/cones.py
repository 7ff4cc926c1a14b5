"""Small cone beams without symmetry, and their grids."""

from dataclasses import replace
from math import pi

from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

SMALL_VOLUME = VolumeGrid(6, 4, 5, (0.45, 0.6, 0.5), center_cm=(0.3, 0.1, -0.2))
SMALL_CONE = ConeBeam(
    5, 7, 12, (0.55, 0.6), 5.0, 8.0, offset_cm=-0.2, row_offset_cm=0.3,
    axis_offset_cm=0.15,
)  # fmt: skip
SMALL_SHORT_CONE = replace(SMALL_CONE, n_views=7, arc_rad=1.6 * pi, start_rad=0.7)
# rows much finer than slices, rows much coarser than slices, and one row with one slice
FINE_ROWS = ConeBeam(3, 24, 9, (0.1, 0.7), 6.0, 9.0)
THICK_SLICES = VolumeGrid(4, 5, 5, (0.9, 0.5, 0.5))
COARSE_ROWS = ConeBeam(3, 3, 9, (2.0, 0.7), 6.0, 9.0)
THIN_SLICES = VolumeGrid(20, 5, 5, (0.13, 0.5, 0.5))
FLAT = ConeBeam(4, 1, 9, 0.7, 6.0, 9.0)
FLAT_VOLUME = VolumeGrid(1, 5, 5, 0.5)
SMALL_CONES = {
    "offsets": (SMALL_CONE, SMALL_VOLUME),
    "short scan": (SMALL_SHORT_CONE, SMALL_VOLUME),
    "fine rows": (FINE_ROWS, THICK_SLICES),
    "coarse rows": (COARSE_ROWS, THIN_SLICES),
    "flat": (FLAT, FLAT_VOLUME),
}
