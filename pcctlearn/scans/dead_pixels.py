"""Pixels and views of a scan that cannot be used, and the mean of neighbours in their place."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.scans.validation.pixels import pixel_faults

Values = Float[Tensor, "bin view row column"]
Pixels = Bool[Tensor, "row column"]
_MOST_VIEWS = 128  # in which pixels are compared with their neighbours
_MOST_LISTED = 8  # pixels of a kind


def missing_views(counts: Values) -> list[int]:
    """Views in which a bin is NaN throughout, or no pixel of any bin holds a count."""
    unknown = counts.isnan().all(-1).all(-1).any(0)
    nothing = (counts.isnan() | (counts == 0)).all(-1).all(-1).all(0)
    return (unknown | nothing).nonzero().flatten().tolist()


def spread_views(n_views: int, most: int) -> np.ndarray:
    """Indices of at most so many views, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, n_views - 1, most).round().astype(int))


def dead_pixels(counts: Values, air: Float[Tensor, "bin row column"]) -> dict[str, Pixels]:
    """Pixels that cannot be used, by kind; one faulty bin suffices, as all bins are needed.

    "without air" has an air of 0 or NaN, "NaN" a count of NaN, and "silent" no count in any bin and
    view. "cold", "hot" and "stuck" contradict their neighbours (``pixel_faults``, from at most 128
    views).
    """
    views = spread_views(counts.shape[1], _MOST_VIEWS)
    implausible = pixel_faults(counts[:, views].cpu().numpy(), air.cpu().numpy())
    return {
        "without air": (air.isnan() | (air == 0)).any(0),
        "NaN": counts.isnan().any(1).any(0),
        "silent": (counts == 0).all(1).all(0),
        **{kind: torch.from_numpy(found.any(0)) for kind, found in implausible.items()},
    }


def any_of(kinds: dict[str, Pixels]) -> Pixels:
    """Pixels of any kind."""
    return torch.stack([*kinds.values()]).any(0)


def listed(kinds: dict[str, Pixels]) -> str:
    """How many of each kind, and where the first of them are."""
    return "; ".join(
        f"{len(places)} {kind}: {', '.join(f'({r}, {c})' for r, c in places[:_MOST_LISTED])}"
        + (" …" if len(places) > _MOST_LISTED else "")
        for kind, mask in kinds.items()
        if (places := mask.nonzero().tolist())
    )


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
