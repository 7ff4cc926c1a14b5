"""Charge collection in the pixels of a detector: sharing, noise, anti-coincidence (numba)."""

import math
from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pcctlearn.montecarlo.photons_numba import draw

MAX_HITS = 128
_MIN_CHARGE_keV = 1e-3  # less charge in a pixel is neglected
_FAR = 4.0  # standard deviations of a charge cloud; 3e-5 of the charge is beyond

Array = NDArray[np.float64]


class Sensor(NamedTuple):
    """Detector parameters for the kernels: cm, keV; depth z increases from 0 at the entrance."""

    pitch_x: float
    pitch_y: float
    sensitive_x: float  # half width of the part of a pixel that collects charge
    sensitive_y: float
    dead: float  # depth where charge begins to be collected
    depth: float  # depth where the sensor ends
    edge_on: bool
    foil: bool
    anti_coincidence: bool
    noise_keV: float  # sampled for every hit; 0 if it is convolved afterwards
    widening_cm: float  # 2 (kT/q) L / V: variance of the cloud per cm of drift
    track_cm: float  # σ₀ = track + track_per · E^1.67
    track_per: float
    segment_ends: Array


class Hits(NamedTuple):
    """Pixel, depth segment and charge (keV) of every hit of one photon."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    segment: NDArray[np.int64]
    keV: Array


@njit(cache=True, error_model="numpy")
@no_type_check
def _add(hits, n_hits, x, y, segment, energy):
    """Add charge to a pixel; returns the number of hits."""
    if energy < _MIN_CHARGE_keV:
        return n_hits
    for i in range(n_hits):
        if hits.x[i] == x and hits.y[i] == y and hits.segment[i] == segment:
            hits.keV[i] += energy
            return n_hits
    hits.x[n_hits], hits.y[n_hits], hits.segment[n_hits] = x, y, segment
    hits.keV[n_hits] = energy
    return n_hits + 1


@njit(cache=True, error_model="numpy")
@no_type_check
def _shares_beyond(offset, pitch, sigma):
    """Fractions of a Gaussian charge cloud below and above its pixel."""
    low, high = 0.0, 0.0
    below, above = 0.5 * pitch + offset, 0.5 * pitch - offset
    if below < _FAR * sigma:
        low = 0.5 * math.erfc(below / (sigma * math.sqrt(2.0)))
    if above < _FAR * sigma:
        high = 0.5 * math.erfc(above / (sigma * math.sqrt(2.0)))
    return low, high


@njit(cache=True, error_model="numpy")
@no_type_check
def collect(sensor, hits, n_hits, i, j, x, y, z, energy):
    """Share the charge of a deposit at (x, y) in pixel (i, j) and depth z among 3×3 pixels."""
    drift = sensor.sensitive_y - y if sensor.edge_on else sensor.depth - z
    track = sensor.track_cm + sensor.track_per * energy**1.67
    sigma = math.sqrt(track * track + sensor.widening_cm * drift)
    segment = 0
    while segment < sensor.segment_ends.size and z > sensor.segment_ends[segment]:
        segment += 1
    left, right = _shares_beyond(x, sensor.pitch_x, sigma)
    down, up = 0.0, 0.0
    if not sensor.edge_on:
        down, up = _shares_beyond(y, sensor.pitch_y, sigma)
    for b in range(-1, 2):
        row = down if b < 0 else up if b > 0 else 1.0 - down - up
        if row == 0.0:
            continue
        row *= energy
        n_hits = _add(hits, n_hits, i, j + b, segment, row * (1.0 - left - right))
        if left > 0.0:
            n_hits = _add(hits, n_hits, i - 1, j + b, segment, row * left)
        if right > 0.0:
            n_hits = _add(hits, n_hits, i + 1, j + b, segment, row * right)
    return n_hits


@njit(cache=True, error_model="numpy")
@no_type_check
def add_noise(sensor, hits, n_hits, state):
    """Add Gaussian noise to each hit (G. Box and M. Muller, Ann. Math. Stat. 29 (1958) 610)."""
    for i in range(n_hits):
        r, state = draw(state)
        s, state = draw(state)
        normal = math.sqrt(-2.0 * math.log(1.0 - r)) * math.cos(2.0 * math.pi * s)
        hits.keV[i] += sensor.noise_keV * normal
    return state


@njit(cache=True, error_model="numpy")
@no_type_check
def anti_coincidence(sensor, hits, n_hits):
    """Sum the hits of each 3×3 neighborhood into its largest; returns the number of events."""
    n_events = 0
    while n_events < n_hits:
        largest = n_events
        for i in range(n_events + 1, n_hits):
            if hits.keV[i] > hits.keV[largest]:
                largest = i
        for values in (hits.x, hits.y, hits.segment):
            values[n_events], values[largest] = values[largest], values[n_events]
        hits.keV[n_events], hits.keV[largest] = hits.keV[largest], hits.keV[n_events]
        n_left = n_events + 1
        for i in range(n_events + 1, n_hits):
            near = abs(hits.x[i] - hits.x[n_events]) <= 1
            near = near and hits.segment[i] == hits.segment[n_events]
            if near and abs(hits.y[i] - hits.y[n_events]) <= (0 if sensor.edge_on else 1):
                hits.keV[n_events] += hits.keV[i]
            else:
                hits.x[n_left], hits.y[n_left] = hits.x[i], hits.y[i]
                hits.segment[n_left], hits.keV[n_left] = hits.segment[i], hits.keV[i]
                n_left += 1
        n_hits, n_events = n_left, n_events + 1
    return n_events
