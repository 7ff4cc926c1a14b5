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
def _node(u, survival, guide):
    """Place among the nodes that a pulse exceeds with probability 1 − u, linear between them."""
    exceeded = 1.0 - u
    node = guide[int(u * _GUIDES)]
    while node + 2 < len(survival) and survival[node + 1] >= exceeded:
        node += 1
    drop = survival[node] - survival[node + 1]
    return node + (survival[node] - exceeded) / drop if drop > 0.0 else float(node)


@no_type_check
@njit(cache=True, error_model="numpy")
def _count(
    rate, survival, nodes, thresholds, time_s, pulse_s, dead_s, state, guide, counts, pulses
):  # fmt: skip
    """Pulses one by one: a threshold is blind to pulses that begin while it is busy or dead."""
    busy, ready = np.zeros(len(thresholds)), np.zeros(len(thresholds))
    t = 0.0
    while True:
        u, state = draw(state)
        t -= math.log(1.0 - u) / rate
        if t > time_s:
            return
        u, state = draw(state)
        height = nodes[0] + nodes[1] * _node(u, survival, guide)
        for j in range(len(thresholds)):
            if height >= thresholds[j]:
                pulses[j] += 1
                if t >= busy[j] and t >= ready[j]:
                    counts[j] += 1
                    ready[j] = t + dead_s
                busy[j] = t + pulse_s


@no_type_check
@njit(cache=True, error_model="numpy")
def _count_sums(
    rate, survival, nodes, thresholds, time_s, pulse_s, dead_s, state, guide, counts, pulses
):  # fmt: skip
    """Pulses that add up where they overlap: a threshold counts when their sum rises above it."""
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
        height = nodes[0] + nodes[1] * _node(u, survival, guide)
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
            if height >= thresholds[j]:
                pulses[j] += 1
            if before < thresholds[j] <= level and t >= ready[j]:
                counts[j] += 1
                ready[j] = t + dead_s


@no_type_check
@njit(cache=True, error_model="numpy", parallel=True)
def count_pulses(
    rates, survival, nodes, thresholds, time_s, pulse_s, dead_s, adds, seed, counts, pulses
):  # fmt: skip
    """Count the pulses of independent counters.

    Args:
        rates: pulses in 1/s, (counter).
        survival: probability that a pulse exceeds each node, one at the first, (counter, node).
        nodes: energy of the first node, and their spacing.
        thresholds: energies, (counter, threshold).
        time_s: counting time.
        pulse_s: length of a pulse; fewer than ``RING`` may overlap.
        dead_s: time after a count in which a threshold does not count again.
        adds: whether pulses that overlap add up.
        seed: of the random streams, one for each counter.
        counts, pulses: zero, written, (counter, threshold): what is counted, and all pulses above
            the threshold.
    """
    for i in prange(len(rates)):
        if rates[i] > 0.0:
            guide = np.empty(_GUIDES, np.int64)
            _guided(survival[i], guide)
            state = stream(seed, i)
            arguments = (
                rates[i], survival[i], nodes, thresholds[i], time_s, pulse_s, dead_s, state, guide,
                counts[i], pulses[i],
            )  # fmt: skip
            if adds:
                _count_sums(*arguments)
            else:
                _count(*arguments)
