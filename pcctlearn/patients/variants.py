"""Data augmentation: random variants of the cases of a data set (MONAI)."""

from collections.abc import Callable
from math import radians
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pcctlearn.patients.cases import Cases
from pcctlearn.patients.patient_frame import PlacedCase
from pcctlearn.physics.noise import seed_of


class Variants(Cases):
    """Every case of a data set, each followed by ``n_variants`` random variants.

    A variant is the case after a small random affine transform and change of density
    (``augmentation``). It depends only on the seed and on its own name. Variants have no position
    in the patient's CT, so ``scanner_to_patient`` is ``None``.

    Args:
        cases: the data set.
        n_variants: number of variants of each case.
        seed: of the random numbers.
        options: other parameters of ``augmentation``.
    """

    def __init__(self, cases: Cases, n_variants: int = 4, seed: int = 0, **options: float) -> None:
        if n_variants < 1:
            raise ValueError(f"datasets.n_variants must be 1 or more, got {n_variants}")
        self.cases, self.n_variants, self.seed, self.options = cases, n_variants, seed, options
        self.materials, self.grid_type = cases.materials, cases.grid_type
        augmentation(0, **options)  # a wrong option raises here

    @property
    def names(self) -> list[str]:
        """Name of each case, followed by the names of its variants."""
        endings = ["", *(f"_variant_{k}" for k in range(1, self.n_variants + 1))]
        return [name + ending for name in self.cases.names for ending in endings]

    def __len__(self) -> int:
        return len(self.cases) * (1 + self.n_variants)

    def maps(self, index: int, grid: Any) -> Float[Tensor, "material *voxel"]:
        """Densities in g/cm³ of a case or a variant."""
        return self.placed(index, grid).maps

    def placed(self, index: int, grid: Any) -> PlacedCase:
        """A case as its data set places it, or a variant without position in a CT."""
        self.require_index(index)
        original, variant = divmod(index, 1 + self.n_variants)
        placed = self.cases.placed(original, grid)
        if not variant:
            return placed
        change = augmentation(seed_of(self.seed, self.names[index]), **self.options)
        return PlacedCase(change(placed.maps), None, placed.materials)


def augmentation(
    seed: int,
    flip: float = 0.5,
    rotation_deg: float = 5.0,
    scale: float = 0.05,
    shift_voxels: float = 4.0,
    density: float = 0.02,
) -> Callable[[Tensor], Tensor]:
    """A random transform of density maps (material, z, y, x), a ``monai.transforms.Compose``.

    Args:
        seed: of the random numbers; the same seed gives the same sequence.
        flip: probability of exchanging left and right.
        rotation_deg: largest rotation about z.
        scale: largest relative change of size along each axis.
        shift_voxels: largest shift in the slice.
        density: largest relative change of density, the same for all materials.
    """
    from monai import transforms as t

    transform = t.Compose(
        [
            t.RandFlip(flip, spatial_axis=2),
            t.RandAffine(
                1.0,
                rotate_range=(radians(rotation_deg), 0, 0),
                translate_range=(0, shift_voxels, shift_voxels),
                scale_range=(scale, scale, scale),
                mode="bilinear",
                padding_mode="zeros",
            ),
            t.RandScaleIntensity(density, prob=1.0),
            t.EnsureType(track_meta=False),
        ]
    )
    return transform.set_random_state(seed % 2**32)
