"""What a filter sees beyond the edges of a detector that is narrower than the object."""
# mypy: disable-error-code=override

from dataclasses import replace
from math import ceil, pi
from typing import TypeVar

import torch
from torch import Tensor

from pcctlearn.tomography.geometry import Beam
from pcctlearn.tomography.linear_operator import LinearOperator

AnyBeam = TypeVar("AnyBeam", bound=Beam)


class EdgeExtension(LinearOperator):
    """Columns beyond the edges: the edge's own value, falling to zero as a squared cosine.

    A ramp filter takes the missing rays for air, and turns the jump at the edge into a bright rim
    (cupping). Extended like this most of the rim is gone; values stay approximate. An edge whose
    rays weigh nothing, that of a displaced detector, is extended by zeros. The transpose folds the
    added columns back onto the edges.

    B. Ohnesorge, T. Flohr, K. Schwarz, J. P. Heiken and K. T. Bae, "Efficient correction for CT
    image artifacts caused by objects extending outside the scan field of view",
    Med. Phys. 27 (2000), in its simplest form. doi:10.1118/1.598855
    """

    def __init__(self, shape: tuple[int, ...], n_before: int, n_after: int) -> None:
        super().__init__(shape, (*shape[:-1], n_before + shape[-1] + n_after))
        for name, n_added in (("before", n_before), ("after", n_after)):
            steps = torch.arange(1, n_added + 1) / (n_added + 1)
            self.register_buffer(name, torch.cos(pi / 2 * steps) ** 2, persistent=False)

    def apply(self, x: Tensor) -> Tensor:  # noqa: D102
        before, after = (self.get_buffer(name).to(x) for name in ("before", "after"))
        return torch.cat([x[..., :1] * before.flip(0), x, x[..., -1:] * after], -1)


def widened(beam: AnyBeam) -> tuple[AnyBeam, int, int]:
    """The beam with columns enough for its image, and how many were added at either end."""
    n_before, n_after = (
        ceil((needed - reach) / beam.column_cm) if is_cut else 0
        for reach, needed, is_cut in zip(
            beam.reaches_cm, beam.needed_reaches_cm, beam.is_truncated, strict=True
        )
    )
    wide = replace(
        beam,  # type: ignore[type-var]
        n_columns=n_before + beam.n_columns + n_after,
        offset_cm=beam.offset_cm + (n_after - n_before) / 2 * beam.column_cm,
    )
    return wide, n_before, n_after
