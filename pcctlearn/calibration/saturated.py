"""Counts at the limit of a counter: a few pixels are flagged, many are refused."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.scans.dead_pixels import any_of
from pcctlearn.scans.validation.saturation import saturation_faults

_CHANCE = 1e-3  # of equal greatest counts, below which they are taken for a limit
_MOST = 0.1  # of the pixels


def with_saturated(
    counts: Float[Tensor, "exposure *pixel threshold"],
    flags: Mapping[str, Bool[Tensor, "*pixel"]],
    thresholds_keV: Float[Tensor, "threshold"],
    noise_free: bool = False,
) -> dict[str, Bool[Tensor, "*pixel"]]:
    """The flags, and "saturated" pixels, of which several have exactly the greatest count.

    Counts without noise may be equal, so that none of their pixels is flagged.

    Raises:
        ValueError: many pixels have it.
    """
    shape = counts.shape[1:-1]
    marked = any_of(flags).flatten() if flags else torch.zeros(shape.numel(), dtype=torch.bool)
    each = counts.flatten(1, -2)[:, ~marked]
    if not each.shape[1]:
        return dict(flags)
    reached = torch.zeros_like(marked)
    for keV, values in zip(thresholds_keV.tolist(), each.unbind(-1), strict=True):
        air = int(values.nansum(1).argmax())
        sample = values.numpy().astype(np.float32)
        if any(saturation_faults(sample[None, :, None], sample[None, air, None])):
            raise ValueError(
                f"counts above {keV:g} keV are saturated: many pixels have the greatest count, "
                f"{float(sample[np.isfinite(sample)].max()):.6g}; measure with less tube current "
                "or shorter frames, or mark the pixels in the dataset saturated if they are few"
            )
        if not noise_free:
            reached[~marked] |= at_limit(values)
    if not reached.any():
        return dict(flags)
    known = flags.get("saturated", torch.zeros(shape, dtype=torch.bool))
    return {**flags, "saturated": known | reached.reshape(shape)}


def at_limit(counts: Float[Tensor, "exposure pixel"]) -> Bool[Tensor, "pixel"]:
    """Pixels with exactly the greatest count N of all, where m counts are unlikely to be equal.

    If n counts lie within 3 √N below N, and counts come in steps of d, then λ = n d / (3 √N) of
    them are expected at any one value, and m − 1 more at N with a chance of λ^(m − 1) / (m − 1)!.
    """
    found = torch.zeros_like(counts[0], dtype=torch.bool)
    distinct = counts[counts.isfinite()].unique()
    if len(distinct) < 2 or distinct[-1] <= 0:
        return found
    top, width = distinct[-1], 3 * math.sqrt(float(distinct[-1]))
    at_top = counts == top
    n_equal, n_near = int(at_top.sum()), int(((counts < top) & (counts > top - width)).sum())
    expected = max(n_near, 1) * float(distinct.diff().min()) / width
    log_chance = (n_equal - 1) * math.log(expected) - math.lgamma(n_equal)
    pixels = at_top.any(0)
    few = pixels.double().mean() <= _MOST
    return pixels if few and log_chance < math.log(_CHANCE) else found
