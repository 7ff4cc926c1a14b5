"""Random streams are uniform and independent, and voxel traversal is exact."""

import numpy as np
import pytest
from numba import njit

from pcctlearn.montecarlo.photons_numba import (
    Voxels,
    compton_energy,
    draw,
    rotated,
    stream,
    volume_intersection,
    walk,
)

N = 2**17
DIRECTIONS = [
    (1, 0, 0),
    (0, -1, 0),
    (0, 0, 1),
    (1, 1, 0),
    (0, -1, 1),
    (0.3, 0.9, -0.2),
    (-0.7, 0.1, 0.6),
    (1e-9, 1, 1e-9),
]


@njit
def one_history(seed, history, n):
    numbers, state = np.empty(n), stream(seed, history)
    for i in range(n):
        numbers[i], state = draw(state)
    return numbers


@njit
def many_histories(seed, n, skip):
    """Number ``skip`` of the stream of each of n histories."""
    numbers = np.empty(n)
    for history in range(n):
        state = stream(seed, history)
        for _ in range(skip + 1):
            numbers[history], state = draw(state)
    return numbers


@njit
def many_seeds(n):
    numbers = np.empty(n)
    for seed in range(n):
        numbers[seed], _ = draw(stream(seed, 5))
    return numbers


SEQUENCES = {
    "one history": lambda: one_history(3, 7, N),
    "histories, first numbers": lambda: many_histories(3, N, 0),
    "histories, tenth numbers": lambda: many_histories(3, N, 9),
    "seeds": lambda: many_seeds(N),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_random_numbers_are_uniform_and_uncorrelated(name):
    numbers = SEQUENCES[name]()
    assert 0 <= numbers.min() <= numbers.max() < 1
    # four standard errors of the mean, the variance and the correlation
    assert numbers.mean() == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / N))
    assert numbers.var() == pytest.approx(1 / 12, abs=4 * np.sqrt(1 / 180 / N))
    away = (numbers - numbers.mean()) / numbers.std()
    for lag in (1, 2, 3, 8):
        assert abs((away[lag:] * away[:-lag]).mean()) < 4 / np.sqrt(N - lag)
    pairs, *_ = np.histogram2d(numbers[::2], numbers[1::2], bins=16, range=[[0, 1], [0, 1]])
    expected = N / 2 / 256
    chi_squared = ((pairs - expected) ** 2 / expected).sum()
    assert chi_squared == pytest.approx(255, abs=4 * np.sqrt(2 * 255))


def test_streams_depend_on_seed_and_history():
    first = one_history(1, 2, 100)
    assert np.array_equal(first, one_history(1, 2, 100))
    others = [one_history(1, 3, 100), one_history(2, 2, 100), one_history(2, 1, 100)]
    for other in others:
        assert not np.intersect1d(first, other).size
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.4


def test_rotated_directions_are_unit_vectors_at_the_given_angle():
    rng = np.random.default_rng(0)
    axes = [*rng.normal(size=(20, 3)), (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)]
    for axis in axes:
        u, v, w = np.array(axis) / np.linalg.norm(axis)
        for cosine in (-1.0, -0.3, 0.0, 0.999999, 1.0):
            after = rotated(u, v, w, cosine, rng.uniform(0, 2 * np.pi))
            assert np.linalg.norm(after) == pytest.approx(1, abs=1e-7)
            assert np.dot(after, (u, v, w)) == pytest.approx(cosine, abs=1e-6)


def test_compton_energy_forward_and_backward():
    assert compton_energy(60.0, 1.0) == 60.0
    # backward: E / (1 + 2 E / m c²)
    assert compton_energy(60.0, -1.0) == pytest.approx(60 / (1 + 120 / 510.99895))


@pytest.fixture
def voxels():
    rng = np.random.default_rng(1)
    return Voxels(
        density=rng.integers(0, 1000, (5, 4, 6, 2)).astype(np.uint16),
        unit_g_cm3=np.ones(2),
        lower_cm=np.array([-2.0, 1.0, -3.0]),
        size_cm=np.array([0.5, 0.7, 1.1]),
    )


def slab_paths(voxels, point, direction, length_cm):
    """Path length in every voxel, as an intersection of three slabs, times its densities."""
    low, high = np.full(voxels.density.shape[:3], 0.0), np.full(voxels.density.shape[:3], length_cm)
    for axis in range(3):
        n = voxels.density.shape[2 - axis]
        edges = voxels.lower_cm[axis] + voxels.size_cm[axis] * np.arange(n + 1)
        shape = [1, 1, 1]
        shape[2 - axis] = n
        if direction[axis] == 0:
            inside = (edges[:-1] < point[axis]) & (point[axis] < edges[1:])
            enter, leave = np.where(inside, -np.inf, np.inf), np.full(n, np.inf)
        else:
            at = (edges - point[axis]) / direction[axis]
            enter, leave = np.minimum(at[:-1], at[1:]), np.maximum(at[:-1], at[1:])
        low = np.maximum(low, enter.reshape(shape))
        high = np.minimum(high, leave.reshape(shape))
    lengths = np.maximum(high - low, 0)
    return (lengths[..., None] * voxels.density).sum((0, 1, 2))


def rays():
    """Rays from outside and inside, along the axes, and past the volume."""
    rng = np.random.default_rng(2)
    inside = np.array([-0.63, 2.11, 0.37])
    for direction in DIRECTIONS:
        unit = np.array(direction, float) / np.linalg.norm(direction)
        yield inside, unit
        yield inside - 12.3 * unit, unit
    for _ in range(500):
        unit = rng.normal(size=3)
        unit /= np.linalg.norm(unit)
        yield rng.uniform([-6, -3, -7], [5, 8, 7]), unit


def test_area_densities_are_exact(voxels):
    for point, unit in rays():
        for length_cm in (1e9, 1.37):
            path, distance, *_ = walk(voxels, *point, *unit, length_cm, (0.0, 0.0))
            expected = slab_paths(voxels, point, unit, length_cm)
            # the first voxel is looked up 1e-7 cm beyond the face
            np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-6 * 1000)
            assert distance <= length_cm
            added, *_ = walk(voxels, *point, *unit, length_cm, (3.0, 5.0))
            np.testing.assert_allclose(np.array(added) - (3.0, 5.0), path, atol=1e-9)


def test_ray_through_voxel_edges():
    voxels = Voxels(np.ones((4, 4, 4, 1), np.uint16), np.ones(1), np.full(3, -2.0), np.ones(3))
    diagonal = np.ones(3) / np.sqrt(3)
    (path,), *_ = walk(voxels, -5.0, -5.0, -5.0, *diagonal, 1e9, (0.0,))
    assert path == pytest.approx(4 * np.sqrt(3), abs=1e-6)
    assert volume_intersection(voxels, 0.5, 0.5, 9.0, 1.0, 0.0, 0.0)[0] > 1e9
    (path,), *_ = walk(voxels, 0.5, 0.5, 9.0, 1.0, 0.0, 0.0, 1e9, (0.0,))
    assert path == 0


def test_traversal_ends_at_the_target(voxels):
    rates, rng = (0.3, 0.8), np.random.default_rng(3)
    n_rays = 0
    for point, unit in rays():
        whole, end, *_ = walk(voxels, *point, *unit, 1e9, (0.0, 0.0))
        total = np.dot(rates, whole)
        if total < 1:
            continue
        n_rays += 1
        for share in (rng.uniform(), 0.0, 1 - 1e-12):
            path, distance, i, j, k = walk(
                voxels, *point, *unit, 1e9, (0.0, 0.0), rates, share * total
            )
            assert np.dot(rates, path) == pytest.approx(share * total, rel=1e-9, abs=1e-6)
            assert distance <= end + 1e-9
            np.testing.assert_allclose(
                path, slab_paths(voxels, point, unit, max(distance, 0)), atol=1e-6 * 1000
            )
            position = (point + distance * unit - voxels.lower_cm) / voxels.size_cm
            assert (np.abs(position - (np.array([i, j, k]) + 0.5)) < 0.5 + 1e-6).all()
    assert n_rays > 50
