"""What a filter sees beyond the edges of a detector that is narrower than the object."""
# mypy: disable-error-code=override

from math import pi

import torch
from torch import Tensor

from pcctlearn.tomography.linear_operator import LinearOperator


class EdgeExtension(LinearOperator):
    """Columns beyond either edge: the edge's own value, falling to zero as a squared cosine.

    A ramp filter takes the missing rays for air, and turns the jump at the edge into a bright rim
    (cupping). Extended like this the rim is gone; values far from the edge stay approximate.
    It is linear, and its transpose folds the added columns back onto the edges.

    B. Ohnesorge, T. Flohr, K. Schwarz, J. P. Heiken and K. T. Bae, "Efficient correction for CT
    image artifacts caused by objects extending outside the scan field of view",
    Med. Phys. 27 (2000), in its simplest form. doi:10.1118/1.598855
    """

    taper: Tensor

    def __init__(self, shape: tuple[int, ...], n_added: int) -> None:
        super().__init__(shape, (*shape[:-1], shape[-1] + 2 * n_added))
        steps = torch.arange(1, n_added + 1) / (n_added + 1)
        self.register_buffer("taper", torch.cos(pi / 2 * steps) ** 2, persistent=False)

    def apply(self, x: Tensor) -> Tensor:  # noqa: D102
        left, right = x[..., :1] * self.taper.flip(0), x[..., -1:] * self.taper
        return torch.cat([left, x, right], -1)


class Crop(LinearOperator):
    """The columns without n_cropped of them at either edge."""

    def __init__(self, shape: tuple[int, ...], n_cropped: int) -> None:
        super().__init__(shape, (*shape[:-1], shape[-1] - 2 * n_cropped))
        self.n_cropped = n_cropped

    def apply(self, x: Tensor) -> Tensor:  # noqa: D102
        return x[..., self.n_cropped : x.shape[-1] - self.n_cropped]

    def adjoint(self, y: Tensor) -> Tensor:  # noqa: D102
        return torch.nn.functional.pad(y, (self.n_cropped, self.n_cropped))
