"""Find counts that saturate at a limit, or wrap around to zero beyond it."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from pcctlearn.scans.validation.pixels import PerPixel, Sample, noise_free

_LEAST = 20  # counts and rays; many rays share a smaller maximum by chance
_SHARE = 0.005  # of the rays, at the maximum of a saturated bin
_DEPTHS = (8, 10, 11, 12, 14, 15, 16, 20, 24)  # bits of counters
_NEAR = 0.98  # of a counter's limit, which the greatest count must reach


def saturation_faults(counts: Sample, air: PerPixel, axis: str = "bin") -> Iterator[str]:
    """Bins in which many rays have the greatest count, or counts end at the limit of a counter.

    The greatest of Poisson counts is rare: fewer rays have it than have a count within three
    standard deviations below it. Counts that wrap are whole, reach the limit 2ᵏ − 1 of a counter
    and never exceed it although air does; small counts are then next to large ones.

    Args:
        counts: photons of a sample of the views.
        air: photons.
        axis: name of the first axis, for the sentence: "bin" or "threshold".
    """
    is_expected = noise_free(counts, air)
    whole = np.isnan(counts) | (counts % 1 == 0)
    for index, (n, open_beam) in enumerate(zip(counts, air, strict=True)):
        if np.isnan(n).all():
            continue
        top = float(np.nanmax(n))
        at_top = n == top
        near = (n < top) & (n > top - 3 * np.sqrt(max(top, 0)))
        varied = (np.fmax.reduce(n) > np.fmin.reduce(n)).mean() > 0.1
        if is_expected or not varied:
            continue
        if whole[index].all() and (bits := _wrapped(n, open_beam, top)):
            yield (
                f"counts of {axis} {index} are cut or wrapped at {2**bits - 1}, the limit of "
                f"{bits} bits, while air goes to {np.nanmax(open_beam):.6g}: read them out in "
                "wider integers, or scan with less exposure per view"
            )
        elif top > _LEAST and at_top.sum() > max(_LEAST, _SHARE * n.size, 0.1 * near.sum()):
            yield (
                f"counts of {axis} {index} are saturated: {100 * at_top.mean():.3g} % of its "
                f"values are {top:.6g}, and none is greater; scan with less exposure per view"
            )


def _wrapped(
    n: Float[np.ndarray, "view row column"], air: Float[np.ndarray, "row column"], top: float
) -> int:
    """Bits of the counter whose limit air exceeds and counts do not; 0 if there is none."""
    step = np.abs(np.diff(n, axis=-1))
    for bits in _DEPTHS:
        limit = 2**bits
        beyond = (air[:, 1:] > limit) & (air[:, :-1] > limit)
        if _NEAR * limit <= top < limit and ((step > 0.6 * limit) & beyond).sum() > _LEAST:
            return bits
    return 0
