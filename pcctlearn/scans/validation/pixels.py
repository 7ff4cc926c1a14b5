"""Find pixels whose counts over air contradict those of their neighbours in a bin."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

Sample = Float[np.ndarray, "bin view row column"]
PerPixel = Float[np.ndarray, "bin row column"]
Found = Bool[np.ndarray, "bin row column"]

_LEAST_FACTOR = 1.3  # dispersion of thresholds and skew change counts over air by less
_SPREADS = 6.0  # robust standard deviations of healthy neighbours
_SIGMAS = 8.0  # standard deviations of Poisson noise
_LEAST_SHARE, _UNLIKE = 0.05, 1.3  # −log T behind a dense object: least / most, most / least bin
_MOST_SPREAD = 0.15  # of log T / log T̄; thresholds that differ by 2 keV give 0.12
_MEDIAN_TO_SD = 2.02  # of the lesser of two second differences of a normal variable
_DARK = 1e-6  # least T; smaller values are set to it before taking logarithms
_SHADOW = 0.3  # −log T above which a pixel lies behind the object
_LEAST_LOG_CHANCE = -18.0  # of a healthy pixel that repeats one count in every view
_FEWEST_COLUMNS = 8  # of a panel on which neighbouring pixels have similar counts
_USUAL, _STEEPEST = 2, 10  # −log T of a bin over that of the other bins: soft tissue, any material
_FEWEST_PHOTONS = 64.0
_PASSES = 4  # each finds more pixels of a cluster


def pixel_faults(counts: Sample, air: PerPixel) -> dict[str, Found]:
    """Pixels that are "cold", "hot" or "stuck" in a bin; one that never counts is cold.

    T = Σ_views n / (n_views · air) of a pixel is compared with the medians of the three pixels to
    its left, to its right, below and above, and with values extrapolated from two medians in a row.
    At an edge of the object T lies between the medians on either side. A pixel is cold if T is
    below all of them and hot if T is above all of them, by a factor of 1.3 and six robust
    standard deviations of healthy neighbours, and by eight standard deviations of Poisson noise,
    2 (√n − √λ) (F. J. Anscombe, Biometrika 35 (1948) 246).

    A column is cold or hot if more than half of its pixels are, compared with left and right alone.
    Rows are not, because a thin disc has the same effect in every view. A pixel with low counts in
    all bins by different factors is not cold, because it may lie behind a dense rod on the axis.

    A pixel that never counts in a bin, but does in others, is left out of the medians of that bin.
    If one is cold, or if no material absorbs as much in this bin and as little in the others, all
    such pixels that are connected to it are cold: a row, a module, or the bin of the whole panel.

    On a panel of fewer than eight columns only pixels that never count are cold, and none is hot.

    A stuck pixel repeats one count in every view while most of its neighbours do not.

    Args:
        counts: photons of all views, or of evenly spaced ones; NaN is ignored.
        air: photons; NaN and zero are ignored.
    """
    open_beam = counts.shape[1] * np.where(air > 0, air, np.nan).astype(np.float64)
    total = counts.sum(1, dtype=np.float64)
    found = {"cold": np.zeros(air.shape, bool), "hot": np.zeros(air.shape, bool)}
    stuck = _stuck(counts, air)
    never = (total == 0) & _expects_counts(total, open_beam, _USUAL)
    known = np.where(stuck | never, np.nan, total / open_beam)
    with np.errstate(invalid="ignore", divide="ignore"):
        for _ in range(_PASSES):
            outside = _outside(total, known, open_beam)
            more = {kind: mask & ~found[kind] for kind, mask in outside.items()}
            more["cold"] &= ~_attenuated(total, known, open_beam)
            if not any(mask.any() for mask in more.values()):
                break
            for kind, mask in more.items():
                found[kind] |= mask
                known = np.where(mask, np.nan, known)
    certain = found["cold"] | _expects_counts(total, open_beam, _STEEPEST)
    found["cold"] |= _connected(never, certain)
    return {**found, "stuck": stuck}


def noise_free(counts: Sample, air: PerPixel) -> bool:
    """Whether counts are expected values: not whole, and equal to air wherever close to it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.abs(counts / air[:, None] - 1)
    n_close, n_equal = (difference < 1e-3).sum(), (difference < 1e-6).sum()
    return bool(n_equal > 0.5 * n_close and (counts % 1 > 0).any())


def _expects_counts(total: PerPixel, open_beam: PerPixel, steepness: int) -> Found:
    """Pixels expected to count in a bin even if it attenuates far more than the other bins.

    Its attenuation, −log of the transmission, is taken as ``steepness`` times that of the others.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        others = (total.sum(0) - total) / (open_beam.sum(0) - open_beam)
        return open_beam * others**steepness > _FEWEST_PHOTONS


def _connected(mask: Found, seeds: Found) -> Found:
    """The connected regions of a mask, bin by bin, that contain a seed."""
    found = np.zeros_like(mask)
    for index, (region, seed) in enumerate(zip(mask, seeds, strict=True)):
        labels, _ = ndimage.label(region, np.ones((3, 3)))
        found[index] = np.isin(labels, np.unique(labels[region & seed]))
    return found & mask


def _outside(total: PerPixel, known: PerPixel, open_beam: PerPixel) -> dict[str, Found]:
    """Pixels outside the range that their neighbours predict; ``known`` is T, or NaN."""
    sideways, upright = _predictions(known, axis=-1), _predictions(known, axis=-2)
    spread = _spread(known, open_beam)

    def beyond(expected: PerPixel, sign: int) -> Found:
        factor = np.log(_LEAST_FACTOR) - _SPREADS * spread * np.log(expected.clip(_DARK, 1))
        difference = sign * _log_ratio(total, expected * open_beam)
        return (difference > factor) & (sign * _sigmas(total, expected * open_beam) > _SIGMAS)

    found = {}
    for kind, sign, furthest in (("cold", -1, np.fmin), ("hot", 1, np.fmax)):
        beside = beyond(furthest.reduce(sideways), sign)
        column = beside.mean(1, keepdims=True) > 0.5
        found[kind] = beside & (beyond(furthest.reduce(upright), sign) | column)
        if total.shape[-1] < _FEWEST_COLUMNS:
            found[kind] &= total == 0
    return found


def _spread(known: PerPixel, open_beam: PerPixel) -> Float[np.ndarray, "bin 1 1"]:
    """Standard deviation of log T / log T̄ between healthy pixels behind the object.

    Pixels with different thresholds have different T behind the same object. log T is compared
    with the mean of both neighbours, along the axis on which they agree better.
    """
    log_T, depth = np.log(known.clip(_DARK)), -np.log(known.clip(_DARK, 1))
    behind = depth > _SHADOW
    difference = np.fmin(
        *(
            np.abs(log_T - (_shifted(log_T, 1, axis) + _shifted(log_T, -1, axis)) / 2)
            for axis in (-1, -2)
        )
    )
    noise = 1 / (known * open_beam + 0.5) / depth**2
    typical, noise = (_median(np.where(behind, v, np.nan)) for v in (difference / depth, noise))
    variance = np.nan_to_num(np.square(_MEDIAN_TO_SD * typical) - noise)
    return np.sqrt(variance.clip(0, _MOST_SPREAD**2))[:, None, None]


def _attenuated(total: PerPixel, known: PerPixel, open_beam: PerPixel) -> Found:
    """Pixels with low counts in every bin by different factors, as behind a narrow object."""
    expected = np.fmin(*_predictions(known, axis=-1)[:2]) * open_beam
    lacking = -_log_ratio(total, expected)
    most = lacking.max(0)
    in_all = (_sigmas(total, expected * np.exp(-_LEAST_SHARE * most)) < 3).all(0)
    others, expected_others = (values.sum(0) - values for values in (total, expected))
    unlike = most > _UNLIKE * lacking.min(0)
    return in_all & unlike & (_sigmas(others, expected_others) < -3)


def _predictions(transmission: PerPixel, axis: int) -> list[PerPixel]:
    """Predict T from the pixels on either side along an axis: two medians, two extrapolations.

    At an edge of the panel, two more: the two nearest pixels extrapolated, and T = 1, because the
    object may end there.
    """
    at = {i: _shifted(transmission, i, axis) for i in range(-6, 7)}
    near, beyond = [], []
    for sign in (-1, 1):
        first, second = (
            _sorted_median(np.stack([at[sign * i] for i in places], -1))
            for places in ((1, 2, 3), (4, 5, 6))
        )
        near.append(first)
        beyond.append(np.clip(first + (first - second) * 2 / 3, first / 2, 2 * first))
    for sign, opposite in ((-1, near[1]), (1, near[0])):
        nearest = at[sign].clip(_DARK)
        steep = np.clip(nearest**2 / at[2 * sign].clip(_DARK), nearest / 3, 3 * nearest)
        beyond += [np.where(np.isnan(opposite), level, np.nan) for level in (steep, 1.0)]
    return near + beyond


def _shifted(values: PerPixel, by: int, axis: int) -> PerPixel:
    """values[i + by] along an axis, NaN beyond the panel."""
    moved = np.full_like(values, np.nan)
    n = values.shape[axis]
    target, source = [slice(None)] * 3, [slice(None)] * 3
    target[axis] = slice(max(-by, 0), max(n - max(by, 0), 0))
    source[axis] = slice(max(by, 0), max(n + min(by, 0), 0))
    if abs(by) < n:
        moved[tuple(target)] = values[tuple(source)]
    return moved


def _sorted_median(values: Float[np.ndarray, "bin row column value"]) -> PerPixel:
    """Median of the known values; NaN where there are none."""
    ordered = np.sort(values, -1)  # NaN come last
    n_known = (~np.isnan(values)).sum(-1, keepdims=True)
    middle = [np.maximum(n_known - 1, 0) // 2, np.minimum(n_known // 2, values.shape[-1] - 1)]
    lower, upper = (np.take_along_axis(ordered, index, -1)[..., 0] for index in middle)
    return np.where(n_known[..., 0] > 0, (lower + upper) / 2, np.nan)


def _median(values: PerPixel) -> Float[np.ndarray, "bin"]:
    return _sorted_median(values.reshape(len(values), 1, 1, -1))[:, 0, 0]


def _sigmas(total: PerPixel, expected: PerPixel) -> PerPixel:
    """Difference of two numbers of photons, in standard deviations of Poisson noise."""
    return 2 * (np.sqrt(total + 0.375) - np.sqrt(expected + 0.375))


def _log_ratio(total: PerPixel, expected: PerPixel) -> PerPixel:
    return np.log((total + 0.5) / (expected + 0.5))


def _stuck(counts: Sample, air: PerPixel) -> Found:
    lowest, n_views = counts.min(1), counts.shape[1]
    constant = (lowest == counts.max(1)) & (lowest > 0)
    varies = np.where(air > 0, ~constant, np.nan)
    beside = [
        np.nan_to_num(side, nan=1.0) > 0.5 for side in _predictions(varies, axis=-1)[:2]
    ]  # at an edge of the panel there is one side
    log_chance = -0.5 * (n_views - 1) * np.log(2 * np.pi * np.maximum(lowest, 1))
    found = constant & beside[0] & beside[1] & (log_chance < _LEAST_LOG_CHANCE)
    if noise_free(counts, air):
        found &= ~np.isclose(lowest, air, rtol=1e-6)
    return found
