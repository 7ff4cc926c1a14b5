"""The forward projector and the back-projector of any geometry onto any grid."""

import warnings
from collections.abc import Callable

from pcctlearn.tomography.cone_projector import ConeBackprojector, ConeProjector
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import SliceGrid
from pcctlearn.tomography.linear_operator import LinearOperator
from pcctlearn.tomography.slice_projector import SliceBackprojector, SliceProjector


def projector(geometry: Geometry, grid: SliceGrid, backend: str = "auto") -> LinearOperator:
    """Line integrals of a grid along every ray, in operand · cm, by Joseph's method.

    Image (y, x) to sinogram (view, column) for a parallel or fan beam, and volume (z, y, x) to
    sinogram (view, row, column) for a cone beam, or for the others if the volume has one slice.
    ``backend`` "auto" follows the operand's device; ``SliceProjector`` also accepts "matrix" and
    "numba", ``ConeProjector`` "numba" and "triton".

    Warns if an object that fills the grid is projected beyond the detector.

    Raises:
        TypeError: an ImageGrid for a cone beam. ValueError: a volume of several slices for the
        others, a grid that reaches the source or is projected beside the detector, or an unknown
        backend.
    """
    is_cone = isinstance(geometry, ConeBeam)
    build: Callable[..., LinearOperator] = ConeProjector if is_cone else SliceProjector
    operator = build(geometry, grid, backend)
    warn_if_truncated(geometry, grid)
    return operator


def backprojector(geometry: Geometry, grid: SliceGrid, backend: str = "auto") -> LinearOperator:
    """∫ y(θ, u) / depth² dθ of a sinogram at every voxel; see ``projector`` for shapes and errors.

    This is the back-projection of filtered data; the adjoint of a projector A is ``A.T``.
    """
    is_cone = isinstance(geometry, ConeBeam)
    build: Callable[..., LinearOperator] = ConeBackprojector if is_cone else SliceBackprojector
    return build(geometry, grid, backend)


def warn_if_truncated(geometry: Geometry, grid: SliceGrid) -> None:
    """Warn if the detector truncates the grid, at the line that calls the calling function."""
    for sentence in geometry.truncations(grid):
        warnings.warn(sentence, stacklevel=3)
