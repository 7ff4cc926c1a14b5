"""Water and calcium maps of one axial slice: of a CT file, or of a procedural abdomen."""

import warnings
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pcctlearn.patients.cases import Cases
from pcctlearn.patients.nifti import read_slice
from pcctlearn.phantoms.abdomens import abdomen_slice
from pcctlearn.phantoms.placement import place_body
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid

_SLICE_VOXELS = 1000.0  # thickness of the slice, in voxels of the image


@dataclass(eq=False)
class AxialSlice(Cases):
    """One case: an axial slice, centered on the axis.

    Args:
        path: NIfTI file, KiTS case or KiTS folder; ``None`` for a procedural abdomen.
        index: number of the slice in the file; ``None`` for the middle one.
        threshold_HU: voxels above it are bone, a mixture of water and calcium.
        seed: of the procedural abdomen.
        fit: shrink a body that is wider than the field of view instead of rejecting it.
    """

    grid_type = ImageGrid

    path: str | None = None
    index: int | None = None
    threshold_HU: float = 200.0
    seed: int = 0
    fit: bool = False

    def __post_init__(self) -> None:
        # a bad file raises here
        self.hounsfield = None if self.path is None else read_slice(self.path, self.index)

    @property
    def names(self) -> list[str]:
        """A name with the seed of the abdomen or the index of the slice."""
        if self.path is None:
            return [f"procedural abdomen, seed {self.seed}"]
        index = "" if self.index is None else f", index {self.index}"
        return [f"slice of the CT at datasets.path{index}"]

    def maps(self, index: int, grid: ImageGrid) -> Float[Tensor, "material y x"]:
        """Water and calcium in g/cm³; warns if ``fit`` shrinks the body."""
        self.require_index(index)
        if self.hounsfield is None:
            return abdomen_slice(self.seed, grid)
        hounsfield, spacing_cm = self.hounsfield
        # thick enough to fill the one slice of the grid even if the body is shrunk
        voxel_cm = (_SLICE_VOXELS * grid.voxel_cm, *spacing_cm)
        volume = VolumeGrid(1, grid.n_y, grid.n_x, grid.voxel_cm)
        body = place_body(hounsfield[None], voxel_cm, volume, self.threshold_HU, self.fit)
        if body.scale < 1:
            warnings.warn(
                f"{self.path}: the patient is shrunk to {100 * body.scale:.3g} % of its size "
                "(datasets.fit=true)",
                stacklevel=2,
            )
        return body.maps[:, 0]
