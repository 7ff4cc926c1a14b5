"""Water and calcium maps of one axial slice: a CT of the user's own, or a procedural abdomen."""

import torch

from pcctlearn.datasets.nifti import read_slice
from pcctlearn.phantoms.anatomy import abdomen
from pcctlearn.phantoms.placement import place_body
from pcctlearn.shapes import Maps
from pcctlearn.tomography.grids import VolumeGrid

_THICK = 1000.0  # voxels of the image


class AxialSlice:
    """Maps (1, material, y, x) in g/cm³, water first, on any grid.

    Args:
        path: NIfTI file, KiTS case or KiTS folder; ``None`` for a procedural abdomen.
        index: slice as the file counts them; ``None`` for the middle one.
        threshold_HU: above it lies bone, made of water and calcium.
        seed: of the procedural abdomen.
        fit: shrink a body that is wider than the field of view instead of refusing it.
    """

    def __init__(
        self,
        path: str | None = None,
        index: int | None = None,
        threshold_HU: float = 200.0,
        seed: int = 0,
        fit: bool = False,
    ) -> None:
        self.path, self.index, self.threshold_HU = path, index, threshold_HU
        self.seed, self.fit, self.scale = seed, fit, 1.0
        self.hounsfield = None if path is None else read_slice(path, index)  # bad files fail here

    @property
    def name(self) -> str:
        """What is scanned, for captions."""
        if self.path is None:
            return f"procedural abdomen, seed {self.seed}"
        index = "" if self.index is None else f", index {self.index}"
        scale = "" if self.scale == 1 else f", shrunk to {100 * self.scale:.3g} % of its size"
        return f"slice of the CT at datasets.path{index}{scale}"

    def maps(self, n_y: int, n_x: int, voxel_cm: float) -> Maps:
        """The slice on this grid, in the middle of it."""
        if self.hounsfield is None:
            generator = torch.Generator().manual_seed(self.seed)
            return abdomen(generator, n_y, n_x, voxel_cm)[None]
        hounsfield, spacing_cm = self.hounsfield
        thick = (_THICK * voxel_cm, *spacing_cm)  # the same all along z, shrunk or not
        grid = VolumeGrid(1, n_y, n_x, voxel_cm)
        body = place_body(hounsfield[None], thick, grid, self.threshold_HU, self.fit)
        self.scale = body.scale
        return body.maps[None, :, 0]
