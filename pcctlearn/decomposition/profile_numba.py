"""Starts of all minima of a ray with two materials: its likelihood along a line of equal totals.

A ray has n_b photons in bin b, N in all bins, and ȳ_b(w, c) are expected behind area densities w
and c of the first and second material, which may be any. At a minimum inside the box the expected
total nearly equals N. The line with Σ_b ȳ_b = N crosses every valley of the likelihood once, and
half the deviance along it, but for a constant,

    P(c) = Σ_b ȳ_b − n_b log ȳ_b   at   w(c, N),

has a minimum in each. A table of log(ȳ_b/N) over N and c, for spectra that all pixels share, makes
P of a ray a sum over the bins. Searches that begin at the minima of P find all minima; where there
is only one, no second search is needed. A ray is not sure, and is left to the usual starts,

- if P is flat near a minimum, with less than half the curvature that the Fisher information lets
  expect: two minima of the likelihood that nearly coincide may be one of P;
- if P is nearly as low where its line meets a limit: on a limit the total may differ from N.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from pcctlearn.decomposition.lanes_numba import FASTMATH, LANES, f4, i4, log
from pcctlearn.decomposition.profile_table_numba import EXCESS, INFORMATION, W
from pcctlearn.instructions_numba import multiply_add, use_wide_vectors

_BORDER = 16  # values around a profile
_TINY = f4(1e-30)  # least share of a bin
_LEAST_TOTAL = f4(1e-3)  # of which a logarithm is taken
# rows of ``_keep``: five values of P, three of w, and these; ``_fit_quartic`` writes a start and
# the last
_PLACE, _OFF, _EXPECTED, _NEAR = 8, 9, 10, 11
_KIND = 2
# Two minima of P that are farther apart, in 1 + half the deviance, do not change places off the
# line of equal totals: of 160 000 rays of silicon and CdTe those that did were apart by 0.9 or
# less, and by 0.6 times half the deviance.
_MOST_APART = f4(3)
_CLEAR, _FLAT = f4(0), f4(1)
# Of the Fisher information, at the minimum and beside it: a minimum of P that hid another had 0.04.
# Where this is too strict, as for thin rays whose information falls fast with c, it costs time.
_LEAST_CURVED = f4(0.5)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _interpolate(out, o, table, low, left, high, right, n):
    """A row of the table between two totals."""
    use_wide_vectors()
    for j in range(n):
        out[o + j] = multiply_add(right, table[high + j], left * table[low + j])


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _add_four_bins(out, o, table, low, high, n, a, b, c, d, left, right):
    """out + Σ of four bins, with factors a, b, c, d, of the table at two totals."""
    use_wide_vectors()
    one, two, three = low + n, low + n + n, low + n + n + n
    high_one, high_two, high_three = high + n, high + n + n, high + n + n + n
    a0, b0, c0, d0 = left * a, left * b, left * c, left * d
    a1, b1, c1, d1 = right * a, right * b, right * c, right * d
    for j in range(n):
        t = multiply_add(a0, table[low + j], multiply_add(b0, table[one + j], out[o + j]))
        u = multiply_add(c0, table[two + j], d0 * table[three + j])
        t = multiply_add(a1, table[high + j], multiply_add(b1, table[high_one + j], t))
        u = multiply_add(c1, table[high_two + j], multiply_add(d1, table[high_three + j], u))
        out[o + j] = t + u


@no_type_check
@njit(inline="always")
def _scaled(counts, scale, ray, b):
    return scale[b] * counts[ray, b] if b < len(scale) else f4(0)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _count_least(profile, o, n):
    """Number of minima of the profile, and the sum of their places."""
    use_wide_vectors()
    number, place = np.int32(0), np.int32(0)
    one, least = np.uintp(1), np.int32(0)
    for j in range(n):
        value = profile[o + j]
        least = np.int32(value < profile[o + j - one]) & np.int32(value <= profile[o + j + one])
        number += least
        place += -least & np.int32(j)
    return number, place


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _two_deepest(profile, o, n):
    """Places of the two deepest minima of the profile; −1 where there is none."""
    use_wide_vectors()
    one, first, second = np.uintp(1), -1, -1
    for j in range(n):
        value = profile[o + j]
        if value < profile[o + j - one] and value <= profile[o + j + one]:
            if first < 0 or value < profile[o + np.uintp(first)]:
                first, second = np.int64(j), first
            elif second < 0 or value < profile[o + np.uintp(second)]:
                second = np.int64(j)
    return first, second


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _keep(near, place, r, profile, o, table, row, right, total):
    """Values of P and w around a place, and the information there, for ``_fit_quartic``."""
    use_wide_vectors()
    height, nodes = table.shape[1], table.shape[2]
    of_w = height + W
    middle = min(max(place, 2), nodes - 3)
    for i in range(5):
        near[i * LANES + r] = profile[o + middle + i - 2]
    for i in range(3):
        j = min(max(place + i - 1, 0), nodes - 1)
        w = (f4(1) - right) * table[row, of_w, j] + right * table[row + 1, of_w, j]
        near[(5 + i) * LANES + r] = w
    near[_PLACE * LANES + r] = f4(place)
    near[_OFF * LANES + r] = f4(place - middle)
    near[_EXPECTED * LANES + r] = total * table[row, height + INFORMATION, place]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _fit_quartic(near, nodes, lower, upper):
    """Area densities of 64 rays where the quartic through five values of P has its minimum, and
    whether P is flat there.
    """
    use_wide_vectors()
    last = f4(nodes - 1)
    for r in range(LANES):
        far, before, middle = near[r], near[LANES + r], near[2 * LANES + r]
        after, beyond = near[3 * LANES + r], near[4 * LANES + r]
        d1 = (far - f4(8) * before + f4(8) * after - beyond) * f4(1 / 12)
        d2 = (f4(16) * (before + after) - f4(30) * middle - far - beyond) * f4(1 / 12)
        d3 = f4(0.5) * (beyond - far) + before - after
        d4 = far + beyond - f4(4) * (before + after) + f4(6) * middle
        place, off = near[_PLACE * LANES + r], near[_OFF * LANES + r]
        d = off
        for _ in range(4):
            slope = d1 + d * (d2 + d * (f4(0.5) * d3 + d * d4 * f4(1 / 6)))
            curved = d2 + d * (d3 + f4(0.5) * d * d4)
            moved = min(max(d - slope / curved, off - f4(1)), off + f4(1))
            d = moved if curved > f4(0) else d
        curved = d2 + d * (d3 + f4(0.5) * d * d4)
        inside = (place > f4(0)) & (place < last)
        d = d - off if inside else f4(0)
        w, c = near[6 * LANES + r], place + d
        least, most = near[7 * LANES + r], near[5 * LANES + r]  # w falls with c
        expected = near[_EXPECTED * LANES + r]
        for bend in (
            far - f4(2) * before + middle,
            before - f4(2) * middle + after,
            middle - f4(2) * after + beyond,
        ):
            curved = min(curved, bend)
        flat = _FLAT if curved < _LEAST_CURVED * expected else _CLEAR
        line, bent = f4(0.5) * (least - most), most - f4(2) * w + least
        w += d * (line + f4(0.5) * d * bent)
        c = lower[1] + (upper[1] - lower[1]) * c / last
        near[r] = min(max(w, lower[0]), upper[0])
        near[LANES + r] = min(max(c, lower[1]), upper[1])
        near[_KIND * LANES + r] = flat


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _find_rows(counts, scale, profiles, totals, row, right):
    """Row of the table below each of 64 totals, and the share of the next."""
    use_wide_vectors()
    least, step, last = profiles.least, profiles.step, i4(len(profiles.table) - 2)
    for r in range(LANES):
        totals[r] = _LEAST_TOTAL
    for r in range(len(counts)):
        for b in range(len(scale)):
            totals[r] += scale[b] * counts[r, b]
    for r in range(LANES):
        place = (log(totals[r]) - least) / step
        row[r] = min(max(i4(place), i4(0)), last)
        right[r] = place - f4(row[r])


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _write_profiles(counts, scale, table, row, right, profile):
    """P of up to 64 rays."""
    use_wide_vectors()
    nodes = table.shape[2]
    flat, height = table.ravel(), table.shape[1] * nodes
    n, of_total = np.uintp(nodes), np.uintp((table.shape[1] + EXCESS) * nodes)
    for r in range(len(counts)):
        share = min(max(right[r], f4(0)), f4(1))
        left = f4(1) - share
        low = np.uintp(row[r] * height)
        high = low + np.uintp(height)
        o = np.uintp(_BORDER + r * (nodes + _BORDER))
        _interpolate(profile, o, flat, low + of_total, left, high + of_total, share, n)
        for b in range(0, len(scale), 4):
            i = np.uintp(b * nodes)
            x0, x1 = _scaled(counts, scale, r, b), _scaled(counts, scale, r, b + 1)
            x2, x3 = _scaled(counts, scale, r, b + 2), _scaled(counts, scale, r, b + 3)
            _add_four_bins(profile, o, flat, low + i, high + i, n, x0, x1, x2, x3, -left, -share)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _add_entropy(counts, scale, totals, n, entropy):
    """Σ_b n_b log(n_b/N), which makes half the deviance of P, of 64 rays."""
    use_wide_vectors()
    for r in range(LANES):
        entropy[r] = f4(0)
    for b in range(len(scale)):
        for r in range(len(counts)):
            n[r] = scale[b] * counts[r, b]
        for r in range(LANES):
            entropy[r] += n[r] * log(max(n[r] / totals[r], _TINY))


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def scan(counts, scale, profiles, first, second, n_minima):
    """Start of the deepest minimum of each ray, and of a second one.

    Args:
        counts: (ray, bin).
        scale: (bin), factors of the counts, for the air counts of the table.
        profiles: ``Profiles``.
        first, second: (ray, material), written; the second is NaN where there is none.
        n_minima: (ray), written; 3 stands for more, and 0 for rays outside the table, or with a
            minimum that may stand for two, which have a first start.
    """
    use_wide_vectors()
    table, spans = profiles.table, profiles.spans
    lower, upper = profiles.window[0], profiles.window[1]
    nodes = table.shape[2]
    width, n = nodes + _BORDER, np.uintp(nodes)
    profile = np.full(_BORDER + LANES * width, f4(np.inf), np.float32)
    near, other = np.zeros(_NEAR * LANES, np.float32), np.zeros(_NEAR * LANES, np.float32)
    totals = np.empty(LANES, np.float32)
    row, right = np.zeros(LANES, np.int32), np.zeros(LANES, np.float32)
    x, entropy = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for start in range(0, len(counts), LANES):
        block = counts[start : start + LANES]
        _find_rows(block, scale, profiles, totals, row, right)
        _add_entropy(block, scale, totals, x, entropy)
        _write_profiles(block, scale, table, row, right, profile)
        has_second = False
        for r in range(len(block)):
            o = _BORDER + r * width
            share = min(max(right[r], f4(0)), f4(1))
            number, at = _count_least(profile, np.uintp(o), n)
            inside = (right[r] >= f4(0)) & (right[r] < f4(1))
            second[start + r, 0] = second[start + r, 1] = f4(np.nan)
            also = -1
            if number != 1:
                at, also = _two_deepest(profile, np.uintp(o), n)
            half_deviance = profile[o + max(at, 0)] + entropy[r]
            apart = _MOST_APART * (f4(1) + max(half_deviance, f4(0)))
            most = profile[o + max(at, 0)] + apart
            begin, end = spans[row[r], 0], spans[row[r], 1]
            inside = inside & (begin < at) & (at < end)
            if inside:  # where the line meets a limit
                inside = min(profile[o + begin], profile[o + end]) > most
            if number != 1:
                if also >= 0 and profile[o + also] > most:
                    number, also = np.int32(1), -1
                inside = inside & ((also < 0) | ((begin < also) & (also < end)))
                if also >= 0:
                    has_second = True
                    second[start + r, 0] = f4(0)
                    _keep(other, also, r, profile, o, table, row[r], share, totals[r])
            n_minima[start + r] = min(number, np.int32(3)) if inside else 0
            _keep(near, max(at, 0), r, profile, o, table, row[r], share, totals[r])
        _fit_quartic(near, nodes, lower, upper)
        _copy_starts(near, first[start : start + LANES])
        for r in range(len(block)):
            if near[_KIND * LANES + r] != _CLEAR:
                n_minima[start + r] = 0
        if has_second:
            _fit_quartic(other, nodes, lower, upper)
            _copy_starts(other, second[start : start + LANES])


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _copy_starts(near, starts):
    """Starts from the scratch of ``_fit_quartic``, but of rays without one."""
    use_wide_vectors()
    for r in range(len(starts)):
        if not np.isnan(starts[r, 0]):
            for k in range(2):
                starts[r, k] = near[k * LANES + r]
