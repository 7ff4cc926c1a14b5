"""Pulses of one counter in time, and the crossings of its thresholds (numba).

numba does not notice a change in ``photons_numba`` when it loads a cached kernel of this file:
touch this file as well.
"""

import math
from typing import no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.montecarlo.photons_numba import draw, stream

RING = 64  # pulses that may overlap
_GUIDES = 256  # equal steps of probability, for which the place in the table is known


@no_type_check
@njit(cache=True, error_model="numpy")
def _guided(survival, guide):
    """For each step of probability, the last node that is exceeded with a higher one."""
    node = 0
    for step in range(_GUIDES):
        top = 1.0 - step / _GUIDES
        while node + 2 < len(survival) and survival[node + 1] >= top:
            node += 1
        guide[step] = node


@no_type_check
@njit(cache=True, error_model="numpy")
def _energy(u, survival, guide):
    """Energy in nodes that a pulse exceeds with probability 1 − u, linear between nodes."""
    exceeded = 1.0 - u
    node = guide[int(u * _GUIDES)]
    while node + 2 < len(survival) and survival[node + 1] >= exceeded:
        node += 1
    drop = survival[node] - survival[node + 1]
    return node + (survival[node] - exceeded) / drop if drop > 0.0 else float(node)


@no_type_check
@njit(cache=True, error_model="numpy")
def _count(rate, survival, thresholds, time_s, pulse_s, dead_s, state, guide, counts):
    ends, heights = np.empty(RING), np.empty(RING)
    ready = np.zeros(len(thresholds))
    first, last = 0, 0
    level, t = 0.0, 0.0
    while True:
        u, state = draw(state)
        t -= math.log(1.0 - u) / rate
        if t > time_s:
            return
        u, state = draw(state)
        height = _energy(u, survival, guide)
        while first < last and ends[first % RING] <= t:
            level -= heights[first % RING]
            first += 1
        if first == last:
            level = 0.0  # no rounding is left of pulses that ended
        before = level
        level += height
        ends[last % RING], heights[last % RING] = t + pulse_s, height
        last += 1
        for j in range(len(thresholds)):
            if before < thresholds[j] <= level and t >= ready[j]:
                counts[j] += 1
                ready[j] = t + dead_s


@no_type_check
@njit(cache=True, error_model="numpy", parallel=True)
def count_pulses(rates, survival, thresholds, time_s, pulse_s, dead_s, seed, counts):
    """Count the pulses of independent counters.

    Args:
        rates: pulses in 1/s, (counter).
        survival: probability that a pulse exceeds each of equally spaced nodes, the first of which
            is zero energy, (counter, node).
        thresholds: in nodes, (counter, threshold).
        time_s: counting time.
        pulse_s: length of a pulse; fewer than ``RING`` may overlap.
        dead_s: time after a count in which a threshold does not count again.
        seed: of the random streams, one for each counter.
        counts: zero, written, (counter, threshold).
    """
    for i in prange(len(rates)):
        if rates[i] > 0.0:
            guide = np.empty(_GUIDES, np.int64)
            _guided(survival[i], guide)
            state = stream(seed, i)
            _count(
                rates[i], survival[i], thresholds[i], time_s, pulse_s, dead_s, state, guide,
                counts[i],
            )  # fmt: skip
