"""Averaging keeps the mass for all sizes and shifts; its limit is linear interpolation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcctlearn.phantoms.volume_average import average_weights, averaged
from pcctlearn.tomography.grids import VolumeGrid

steps = st.floats(0.02, 30.0)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), steps, st.floats(-0.5, 0.5), st.integers(0, 2**32 - 1))
def test_mass_is_kept_for_every_ratio_and_shift(n_source, step, shift, seed):
    density = np.random.default_rng(seed).uniform(0, 2, n_source)
    n_target = int(np.ceil((n_source + 2) / step)) + 2  # the target contains the source
    first = (n_source - 1) / 2 + (shift - (n_target - 1) / 2) * step
    averaged = average_weights(n_source, n_target, first, step) @ density
    assert step * averaged.sum() == pytest.approx(density.sum(), rel=1e-9)
    centroid = np.average(first + step * np.arange(n_target), weights=averaged)
    assert abs(centroid - np.average(np.arange(n_source), weights=density)) <= step / 2


@settings(max_examples=100, deadline=None)
@given(steps, st.floats(-0.5, 0.5))
def test_uniform_density_stays_uniform(step, shift):
    weights = average_weights(200, 5, 100 + shift - 2 * step, step)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-9)
    assert (weights >= -1e-12).all()


def test_equal_grids_give_the_identity():
    np.testing.assert_allclose(average_weights(7, 7, 0.0, 1.0), np.eye(7), atol=1e-12)


@pytest.mark.parametrize("shift", [0.1, 0.5, 0.9])
def test_equal_sizes_give_linear_interpolation(shift):
    (weights,) = average_weights(3, 1, 1 + shift, 1.0)
    np.testing.assert_allclose(weights, [0, 1 - shift, shift], atol=1e-12)


def test_much_finer_grid_gives_linear_interpolation():
    fine = average_weights(3, 1001, 0.5, 1e-3) @ np.array([0.0, 1.0, 4.0])
    x = 0.5 + 1e-3 * np.arange(1001)
    np.testing.assert_allclose(fine, np.interp(x, [0, 1, 2], [0, 1, 4]), atol=2e-3)


def test_whole_voxels_are_averaged():
    (weights,) = average_weights(9, 1, 4.0, 3.0)
    np.testing.assert_allclose(weights, [0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0], atol=1e-12)


def test_mass_and_its_center_are_kept_on_another_grid():
    source = VolumeGrid(5, 6, 7, (0.3, 0.4, 0.5), center_cm=(1.0, -2.0, 0.5))
    target = VolumeGrid(40, 50, 60, (0.25, 0.22, 0.21), center_cm=(1.1, -2.3, 0.4))
    volume = torch.zeros(2, *source.shape)
    volume[0, 0, 1, 5], volume[0, 4, 5, 0], volume[1, 3, 0, 6] = 1.0, 0.2, 2.0

    def masses_and_centers(values, grid):
        x, y = grid.positions_cm()
        mass = values.numpy() * np.prod(grid.spacing_cm)
        whole = mass.sum((1, 2, 3))
        positions = grid.slices_cm[:, None, None], y, x
        return whole, [(mass * axis).sum((1, 2, 3)) / whole for axis in positions]

    found, expected = (
        masses_and_centers(*of)
        for of in ((averaged(volume, source, target), target), (volume, source))
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], atol=0.05)  # cm, under half a voxel
