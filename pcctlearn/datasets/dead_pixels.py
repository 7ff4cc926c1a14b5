"""Pixels and views of a scan that counted nothing that can be used, and what takes their place."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Values = Float[Tensor, "bin view row column"]
Pixels = Bool[Tensor, "row column"]


def missing_views(counts: Values) -> list[int]:
    """Views in which a bin is NaN throughout, or no pixel of any bin holds a count."""
    unknown = counts.isnan().all(-1).all(-1).any(0)
    nothing = (counts.isnan() | (counts == 0)).all(-1).all(-1).all(0)
    return (unknown | nothing).nonzero().flatten().tolist()


def dead_pixels(counts: Values, air: Float[Tensor, "bin row column"]) -> Pixels:
    """Pixels with an air of 0 or NaN in a bin, a count of NaN, or 0 in all bins and views."""
    dark = (air.isnan() | (air == 0)).any(0)
    silent = (counts == 0).all(1).all(0)
    return dark | silent | counts.isnan().any(1).any(0)


def filled(values: Values, dead: Pixels) -> Values:
    """The values, dead pixels filled with the mean of those around them, for each bin and view.

    The neighbours are the eight pixels around, as far as they are not dead themselves; where all
    are, the pixel waits until some of them are filled. So a cluster fills from its rim inwards.

    Raises:
        ValueError: all pixels are dead.
    """
    if dead.all():
        raise ValueError("all pixels are dead: there is nothing to fill them from")
    left, known = dead.clone(), values.masked_fill(dead, 0.0)
    while left.any():
        good = (~left).to(values)
        n_good = _sum_around(good)
        now = left & (n_good > 0)
        mean = _sum_around(known * good) / n_good.clamp(min=1)
        known = torch.where(now, mean, known)
        left = left & ~now
    return known


def _sum_around(values: Float[Tensor, "*image row column"]) -> Float[Tensor, "*image row column"]:
    """Over each pixel and its eight neighbours; outside the panel there is nothing."""
    images = values.reshape(-1, 1, *values.shape[-2:])
    square = torch.ones(1, 1, 3, 3, dtype=values.dtype, device=values.device)
    return torch.nn.functional.conv2d(images, square, padding=1).reshape(values.shape)
