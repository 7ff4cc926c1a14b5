"""Random numbers, scattering angles and voxel traversal of one photon (numba).

Each history has its own random stream, given by seed and history number, so that results do not
depend on the number of threads. numba does not notice a change in this file when it loads a
cached kernel of another file: touch those files as well.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit
from numba.extending import overload
from numpy.typing import NDArray

from pcctlearn.montecarlo.interactions import ANGLE_STEP_keV, LOWEST_keV, RATE_STEP_keV
from pcctlearn.physics.constants import ELECTRON_REST_keV

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_ULP = 2.0**-53
_FAR_cm = 1e30
_NUDGE_cm = 1e-7  # step beyond a face into the next voxel


class Voxels(NamedTuple):
    """Densities (z, y, x, material), each axis ascending; cm.

    Densities are stored as multiples of a small unit in two bytes, since traversal is bound by
    memory; attenuation tables are given per unit.
    """

    density: NDArray[np.uint16]
    unit_g_cm3: NDArray[np.float64]  # (material)
    lower_cm: NDArray[np.float64]  # (x, y, z) of the first corner
    size_cm: NDArray[np.float64]  # (x, y, z) of a voxel


def plus(path, length_cm, densities, m=0):
    """path + length · density for each material from m on, as a tuple."""
    return tuple(p + length_cm * d for p, d in zip(path, densities[m:], strict=True))


@overload(plus)
def _plus(path, length_cm, densities, m=0):
    """Unrolled over the length of the tuple, which keeps it in registers."""
    if len(path) == 1:
        return lambda path, length_cm, densities, m=0: (path[0] + length_cm * densities[m],)

    @no_type_check
    def plus_each(path, length_cm, densities, m=0):
        first = path[0] + length_cm * densities[m]
        return (first, *plus(path[1:], length_cm, densities, m + 1))

    return plus_each


@njit(cache=True, error_model="numpy")
@no_type_check
def mix(z):
    """The finalizer of SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014)."""
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@njit(cache=True, error_model="numpy")
@no_type_check
def stream(seed, history):
    """Initial state of the random stream of one history."""
    return mix(mix(np.uint64(seed) * _GAMMA + _MIX_1) + np.uint64(history) * _GAMMA)


@njit(cache=True, error_model="numpy")
@no_type_check
def draw(state):
    """Draw a uniform number in [0, 1); returns it and the next state."""
    state = state + _GAMMA
    return np.float64(np.int64(mix(state) >> _S11)) * _ULP, state


@njit(cache=True, error_model="numpy")
@no_type_check
def rate_at(table, energy_keV):
    """Interpolate linearly in a table of rates, for energies within its range."""
    position = (energy_keV - LOWEST_keV) / RATE_STEP_keV
    i = np.uint32(position)
    return table[i] + (position - i) * (table[i + 1] - table[i])


@njit(cache=True, error_model="numpy")
@no_type_check
def cosine_at(cosines, energy_keV, quantile, state):
    """cos θ at a quantile; one of the two nearest tabulated energies is drawn."""
    r, state = draw(state)
    i = np.uint32((energy_keV - LOWEST_keV) / ANGLE_STEP_keV + r)
    position = quantile * (cosines.shape[1] - 1)
    j = min(np.uint32(position), np.uint32(cosines.shape[1] - 2))
    return cosines[i, j] + (position - j) * (cosines[i, j + 1] - cosines[i, j]), state


@njit(cache=True, error_model="numpy")
@no_type_check
def sample_cosine(cosines, energy_keV, state):
    """Sample cos θ from a table of quantiles."""
    r, state = draw(state)
    return cosine_at(cosines, energy_keV, r, state)


@njit(cache=True, error_model="numpy")
@no_type_check
def density_per_sr(shapes, energy_keV, cosine):
    """Probability per steradian of a scattering angle, at the nearest tabulated energy."""
    i = np.uint32((energy_keV - LOWEST_keV) / ANGLE_STEP_keV + 0.5)
    position = math.sqrt(max(0.0, 0.5 * (1.0 - cosine))) * (shapes.shape[1] - 1)
    j = min(np.uint32(position), np.uint32(shapes.shape[1] - 2))
    return shapes[i, j] + (position - j) * (shapes[i, j + 1] - shapes[i, j])


@njit(cache=True, error_model="numpy")
@no_type_check
def compton_energy(energy_keV, cosine):
    """E' = E / (1 + E (1 − cos θ) / m c²)."""
    return energy_keV / (1.0 + energy_keV / ELECTRON_REST_keV * (1.0 - cosine))


@njit(cache=True, error_model="numpy")
@no_type_check
def rotated(u, v, w, cosine, azimuth):
    """Rotate a unit vector by the polar angle θ and an azimuth."""
    sine = math.sqrt(max(0.0, 1.0 - cosine * cosine))
    c, s = sine * math.cos(azimuth), sine * math.sin(azimuth)
    across = math.sqrt(max(0.0, 1.0 - w * w))
    if across < 1e-6:
        return c, s, math.copysign(1.0, w) * cosine
    return (
        cosine * u + (u * w * c - v * s) / across,
        cosine * v + (v * w * c + u * s) / across,
        cosine * w - across * c,
    )


@njit(cache=True, error_model="numpy")
@no_type_check
def _slab(low, high, position, direction):
    """Distances along one axis to the near and the far face of the volume."""
    if abs(direction) < 1e-12:
        inside = low < position < high
        return (-_FAR_cm, _FAR_cm) if inside else (_FAR_cm, -_FAR_cm)
    a, b = (low - position) / direction, (high - position) / direction
    return (a, b) if a < b else (b, a)


@njit(cache=True, error_model="numpy")
@no_type_check
def volume_intersection(voxels, x, y, z, u, v, w):
    """Distances at which a ray enters and leaves the volume; entry exceeds exit if it misses."""
    n_z, n_y, n_x, _ = voxels.density.shape
    lower, size = voxels.lower_cm, voxels.size_cm
    near_x, far_x = _slab(lower[0], lower[0] + n_x * size[0], x, u)
    near_y, far_y = _slab(lower[1], lower[1] + n_y * size[1], y, v)
    near_z, far_z = _slab(lower[2], lower[2] + n_z * size[2], z, w)
    return max(near_x, near_y, near_z, 0.0), min(far_x, far_y, far_z)


@njit(cache=True, error_model="numpy")
@no_type_check
def _start(position_cm, direction, size_cm, n):
    """First voxel along one axis, step, distance between faces and distance to the first face."""
    i = min(max(int(position_cm / size_cm), 0), n - 1)
    if abs(direction) < 1e-12:
        return i, 0, _FAR_cm, _FAR_cm
    per_voxel = size_cm / abs(direction)
    if direction > 0:
        return i, 1, per_voxel, (i + 1 - position_cm / size_cm) * per_voxel
    return i, -1, per_voxel, (position_cm / size_cm - i) * per_voxel


@njit(cache=True, fastmath={"contract", "arcp", "nsz", "reassoc"}, error_model="numpy")
@no_type_check
def walk(voxels, x, y, z, u, v, w, length_cm, path, rates=None, target=0.0):
    """Accumulate the area density of each material along a ray, up to length_cm.

    ``path``, a tuple in units · cm, is the initial value. With ``rates`` per unit, the traversal
    ends where Σ_m rates_m · path_m reaches ``target``. Returns the path, the distance in cm, and
    the indices i, j, k of the last voxel.

    J. Amanatides and A. Woo, "A fast voxel traversal algorithm for ray tracing", Eurographics 1987.
    """
    start, end = volume_intersection(voxels, x, y, z, u, v, w)
    end = min(end, length_cm)
    if end <= start:
        return path, end, 0, 0, 0
    density, lower, size = voxels.density, voxels.lower_cm, voxels.size_cm
    n_z, n_y, n_x, _ = density.shape
    t = start + _NUDGE_cm
    i, step_x, across_x, next_x = _start(x + u * t - lower[0], u, size[0], n_x)
    j, step_y, across_y, next_y = _start(y + v * t - lower[1], v, size[1], n_y)
    k, step_z, across_z, next_z = _start(z + w * t - lower[2], w, size[2], n_z)
    next_x, next_y, next_z = next_x + t, next_y + t, next_z + t
    t, reached = start, 0.0
    while True:
        face = min(next_x, next_y, next_z, end)
        densities = density[k, j, i]
        if rates is not None:
            per_cm = 0.0
            for m in range(len(path)):
                per_cm += rates[m] * densities[m]
            if reached + (face - t) * per_cm >= target:
                piece = (target - reached) / per_cm if per_cm > 0 else 0.0
                return plus(path, piece, densities), t + piece, i, j, k
            reached += (face - t) * per_cm
        path = plus(path, face - t, densities)
        t = face
        if face >= end:
            return path, t, i, j, k
        # indices stay inside the volume when the ray leaves it
        if face == next_x:
            if not 0 <= i + step_x < n_x:
                return path, t, i, j, k
            i, next_x = i + step_x, next_x + across_x
        elif face == next_y:
            if not 0 <= j + step_y < n_y:
                return path, t, i, j, k
            j, next_y = j + step_y, next_y + across_y
        else:
            if not 0 <= k + step_z < n_z:
                return path, t, i, j, k
            k, next_z = k + step_z, next_z + across_z
