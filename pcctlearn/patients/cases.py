"""Data sets of objects to scan: named cases with density maps on any grid."""

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pcctlearn.patients.patient_frame import PlacedCase
from pcctlearn.tomography.grids import SliceGrid, VolumeGrid


class Cases(ABC):
    """Objects to scan; a new data set defines ``names`` and ``maps``.

    ``materials`` are the materials of the maps. ``grid_type`` is VolumeGrid for volumes and
    ImageGrid for slices.
    """

    materials: tuple[str, ...] = ("water", "calcium")
    grid_type: type[SliceGrid] = VolumeGrid

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Name of each case, for captions and files."""

    @abstractmethod
    def maps(self, index: int, grid: Any) -> Float[Tensor, "material *voxel"]:
        """Densities of a case on a grid of ``grid_type``, in g/cm³.

        Raises:
            IndexError: there is no such case.
            BodyTooWideError: the body is wider than the grid.
        """

    def placed(self, index: int, grid: Any) -> PlacedCase:
        """The maps, and for a CT the transform from scanner to patient."""
        return PlacedCase(self.maps(index, grid), None, self.materials)

    def __len__(self) -> int:
        return len(self.names)

    def require_index(self, index: int) -> None:
        """Raise IndexError unless a case has this index."""
        if not 0 <= index < len(self):
            raise IndexError(f"case index must be 0 to {len(self) - 1}, got {index}")
