"""Procedural patients as cases to scan, one for each seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from pcctlearn.patients.cases import Cases
from pcctlearn.phantoms.abdomens import abdomen_volume
from pcctlearn.phantoms.heads import head
from pcctlearn.tomography.grids import VolumeGrid

ANATOMIES: dict[str, Callable[[int, VolumeGrid], Tensor]] = {
    "head": head,
    "abdomen": abdomen_volume,
}


@dataclass(eq=False)
class ProceduralCases(Cases):
    """``n_cases`` procedural heads or abdomens with seeds first_seed, first_seed + 1, …"""

    anatomy: Literal["head", "abdomen"] = "head"
    n_cases: int = 10
    first_seed: int = 0

    def __post_init__(self) -> None:
        if self.n_cases < 1 or self.first_seed < 0:
            raise ValueError(
                f"datasets.n_cases must be 1 or more and datasets.first_seed 0 or more, got "
                f"{self.n_cases} and {self.first_seed}"
            )

    @property
    def names(self) -> list[str]:
        """Anatomy and seed of each case."""
        seeds = range(self.first_seed, self.first_seed + self.n_cases)
        return [f"{self.anatomy}_{seed:05d}" for seed in seeds]

    def maps(self, index: int, grid: VolumeGrid) -> Float[Tensor, "material z y x"]:
        """Water and calcium in g/cm³, float32."""
        self.require_index(index)
        return ANATOMIES[self.anatomy](self.first_seed + index, grid).float()
