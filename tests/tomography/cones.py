"""Small cone beams without symmetry, and ellipsoids to look at through larger ones."""

from dataclasses import replace
from math import pi

import torch

from pcctlearn.phantoms.ellipses import Ellipse
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

SMALL_VOLUME = VolumeGrid(6, 4, 5, (0.45, 0.6, 0.5), center_cm=(0.3, 0.1, -0.2))
SMALL_CONE = ConeBeam(
    5, 7, 12, (0.55, 0.6), SMALL_VOLUME, 5.0, 8.0, offset_cm=-0.2, row_offset_cm=0.3,
    axis_offset_cm=0.15,
)  # fmt: skip
SMALL_SHORT_CONE = replace(SMALL_CONE, n_views=7, arc_rad=1.6 * pi, start_rad=0.7)
# rows much finer, and much coarser, than slices; one row, one slice
FINE_ROWS = ConeBeam(3, 24, 9, (0.1, 0.7), VolumeGrid(4, 5, 5, (0.9, 0.5, 0.5)), 6.0, 9.0)
COARSE_ROWS = ConeBeam(3, 3, 9, (2.0, 0.7), VolumeGrid(20, 5, 5, (0.13, 0.5, 0.5)), 6.0, 9.0)
FLAT = ConeBeam(4, 1, 9, 0.7, VolumeGrid(1, 5, 5, 0.5), 6.0, 9.0)
SMALL_CONES = {
    "offsets": SMALL_CONE,
    "short scan": SMALL_SHORT_CONE,
    "fine rows": FINE_ROWS,
    "coarse rows": COARSE_ROWS,
    "flat": FLAT,
}

ELLIPSOIDS = EllipsoidPhantom(
    [
        Ellipse((0.3, -0.4, 0.2), (8.0, 6.5, 6.0), (0.2,), 0.3),
        Ellipse((2.5, 1.5, 1.0), (1.5, 1.0, 2.0), (0.15,), 0.8),
        Ellipse((-3.0, 1.0, -1.0), (0.8, 1.8, 1.2), (-0.1,), -0.4),
        Ellipse((1.0, -3.0, -2.0), (1.2, 0.6, 0.9), (0.3,), 1.2),
        Ellipse((-2.0, -2.0, 2.0), (0.5, 0.5, 0.5), (0.5,)),
    ],
    materials=["water"],
)


def sinogram(beam: ConeBeam, phantom: EllipsoidPhantom, oversampling: int = 2) -> torch.Tensor:
    """Exact line integrals averaged over each pixel."""
    k = oversampling
    fine = replace(
        beam,
        n_rows=beam.n_rows * k,
        n_columns=beam.n_columns * k,
        pixel_cm=(beam.row_cm / k, beam.column_cm / k),
    )
    exact = phantom.line_integrals(*fine.rays())[0]
    return torch.nn.functional.avg_pool2d(exact, k)
