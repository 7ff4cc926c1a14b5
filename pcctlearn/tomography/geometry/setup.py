"""Positions of source, panel and volume in a drawing of a cone-beam scan."""

from typing import NamedTuple

import numpy as np

from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.iterative.subsets import of_views

Point = np.ndarray | tuple[float | int, float | int]


class Setup(NamedTuple):
    """Source positions of a scan, and panel and volume in one of its views; (x, y, z) in cm."""

    sources_cm: np.ndarray  # (view, 3), in the order of θ
    view: np.ndarray  # (1,): index of the drawn view
    corners_cm: np.ndarray  # (2, 2, 3): pixels at the corners of the panel in the drawn view
    pixel_cm: np.ndarray  # (row, column)
    n_pixels: np.ndarray  # (row, column)
    edges_cm: np.ndarray  # (3, 2): both faces of the volume along z, y and x
    n_voxels: np.ndarray  # (z, y, x)

    @classmethod
    def of(cls, beam: ConeBeam, grid: VolumeGrid, view: int) -> "Setup":
        """The drawing of one view, counted from 1 in the order of θ."""
        order = np.argsort(beam.angles_rad)
        two = of_views(beam, order[view - 1 : view + 1].tolist())
        center, spacing = np.array(grid.center_cm), np.array(grid.spacing_cm)
        half = np.array(grid.shape) / 2 * spacing
        return cls(
            sources_cm=beam.sources_cm()[order],
            view=np.array([view]),
            corners_cm=two.pixels_cm()[1][[0, -1]][:, [0, -1]],
            pixel_cm=np.array([beam.row_cm, beam.column_cm]),
            n_pixels=np.array(beam.shape[1:]),
            edges_cm=np.stack([center - half, center + half], -1),
            n_voxels=np.array(grid.shape),
        )

    @property
    def source(self) -> np.ndarray:
        """Position of the source in the drawn view."""
        return self.sources_cm[int(self.view[0])]

    @property
    def columns(self) -> np.ndarray:
        """Unit vector along the columns."""
        return unit(self.corners_cm[0, 1] - self.corners_cm[0, 0])

    @property
    def foot(self) -> np.ndarray:
        """Point where the central ray, which is horizontal, meets the panel at right angles."""
        corner = self.corners_cm[0, 0]
        x, y, _ = corner + ((self.source - corner) @ self.columns) * self.columns
        return np.array([x, y, self.source[2]])

    @property
    def toward(self) -> np.ndarray:
        """Unit vector along the central ray."""
        return unit(self.foot - self.source)


def unit(vector: Point) -> np.ndarray:
    """Unit vector along this direction."""
    return np.asarray(vector) / np.linalg.norm(vector)
