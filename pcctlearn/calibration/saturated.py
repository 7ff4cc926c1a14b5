"""Counts at the limit of a counter: a few pixels are flagged, many are refused."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.scans.dead_pixels import any_of

_CHANCE = 1e-3  # of equal greatest counts, below which they are taken for a limit
_MOST = 0.1  # share of pixels that are flagged; more are refused


def with_saturated(
    counts: Float[Tensor, "exposure *pixel threshold"],
    flags: Mapping[str, Bool[Tensor, "*pixel"]],
    thresholds_keV: Float[Tensor, "threshold"],
    noise_free: bool = False,
) -> dict[str, Bool[Tensor, "*pixel"]]:
    """The flags, and "saturated" pixels, of which several have exactly the greatest count.

    Counts without noise may be equal by design, so that none of their pixels is flagged.

    Raises:
        ValueError: more than a tenth of the pixels have it.
    """
    shape = counts.shape[1:-1]
    marked = any_of(flags).flatten() if flags else torch.zeros(shape.numel(), dtype=torch.bool)
    each = counts.flatten(1, -2)[:, ~marked]
    if noise_free or not each.shape[1]:
        return dict(flags)
    reached = torch.zeros_like(marked)
    for keV, values in zip(thresholds_keV.tolist(), each.unbind(-1), strict=True):
        found = at_limit(values)
        if found.double().mean() > _MOST:
            raise ValueError(
                f"counts above {keV:g} keV are saturated: {int(found.sum())} of {len(found)} "
                f"pixels have the greatest count, {values[:, found].nan_to_num().max():.6g}; "
                "measure with less tube current or shorter frames, or mark the pixels in the "
                "dataset saturated if they are few"
            )
        reached[~marked] |= found
    if not reached.any():
        return dict(flags)
    known = flags.get("saturated", torch.zeros(shape, dtype=torch.bool))
    return {**flags, "saturated": known | reached.reshape(shape)}


def at_limit(counts: Float[Tensor, "exposure pixel"]) -> Bool[Tensor, "pixel"]:
    """Pixels with exactly the greatest count N of all, where m counts are unlikely to be equal.

    If n counts lie within 3 √N below N, and counts come in steps of d, then λ = n d / (3 √N) of
    them are expected at any one value, and m − 1 more at N with a chance of λ^(m − 1) / (m − 1)!.
    Counts of equal pixels without noise are equal in every exposure, and are no limit.
    """
    none = torch.zeros_like(counts[0], dtype=torch.bool)
    distinct = counts[counts.isfinite()].unique()
    darkest = counts[int(counts.nansum(1).argmin())]
    if len(distinct) < 2 or len(darkest[darkest.isfinite()].unique()) < 2 or distinct[-1] <= 0:
        return none
    top, width = distinct[-1], 3 * math.sqrt(float(distinct[-1]))
    at_top = counts == top
    n_equal, n_near = int(at_top.sum()), int(((counts < top) & (counts > top - width)).sum())
    expected = max(n_near, 1) * float(distinct.diff().min()) / width
    log_chance = (n_equal - 1) * math.log(expected) - math.lgamma(n_equal)
    return at_top.any(0) if log_chance < math.log(_CHANCE) else none
