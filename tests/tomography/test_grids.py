"""Positions of voxels, and errors for impossible grids."""

from dataclasses import replace

import numpy as np
import pytest

from pcctlearn.tomography.grids import ImageGrid, VolumeGrid, changed_grid


def test_a_volume_of_anisotropic_voxels_off_the_axis():
    grid = VolumeGrid(3, 4, 5, (0.5, 0.2, 0.3), center_cm=(1.0, 2.0, -3.0))
    np.testing.assert_allclose(grid.slices_cm, [0.5, 1.0, 1.5])
    np.testing.assert_allclose(grid.index_to_cm @ [0, 0, 1], [-3 - 2 * 0.3, 2 + 1.5 * 0.2, 1])
    np.testing.assert_allclose(grid.index_to_cm @ [4, 3, 1], [-3 + 2 * 0.3, 2 - 1.5 * 0.2, 1])
    assert grid.corner_radius_cm == pytest.approx(np.hypot(3 + 0.75, 2 + 0.4))
    assert grid.fov_radius_cm == pytest.approx(np.hypot(3, 2) + 0.75)
    assert grid.shape == (3, 4, 5)


def test_a_slice_of_a_centered_volume_is_an_image():
    volume, image = VolumeGrid(3, 4, 5, 0.2), ImageGrid(4, 5, 0.2)
    np.testing.assert_array_equal(volume.index_to_cm, image.index_to_cm)
    assert volume.spacing_cm == (0.2, 0.2, 0.2)
    assert volume == VolumeGrid(3, 4, 5, [0.2, 0.2, 0.2], center_cm=[0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 4, 0.1), "n_z .* 0"),
        ((4, 4, 4, -0.1), r"voxel_cm .* -0\.1"),
        ((4, 4, 4, (0.1, 0.1)), r"voxel_cm .*\(0\.1, 0\.1\)"),
        ((4, 4, 4, (0.1, 0.0, 0.1)), r"voxel_cm .* 0\.0"),
        ((4, 2.5, 4, 0.1), r"n_y .* 2\.5"),
        ((4, 4, 4, 0.1, (0.0, float("nan"), 0.0)), "center_cm .* nan"),
        ((4, 4, 4, 0.1, (0.0, 0.0)), r"center_cm .*\(0\.0, 0\.0\)"),
    ],
)
def test_an_impossible_volume_raises_an_error(arguments, message, annotations_off):
    with pytest.raises(ValueError, match=message):
        VolumeGrid(*arguments)


def test_voxel_sizes_may_be_an_array():
    assert VolumeGrid(3, 4, 5, np.array([0.1, 0.2, 0.3])).spacing_cm == (0.1, 0.2, 0.3)


def test_a_changed_grid_keeps_what_is_not_given():
    grid = VolumeGrid(10, 20, 30, (1.0, 0.5, 0.5), (1.0, 0.0, 0.0))
    assert changed_grid(grid) == grid
    assert changed_grid(grid, n_x=8) == replace(grid, n_x=8)
    assert changed_grid(grid, center_cm=[0.0, 1.0, 2.0]) == replace(grid, center_cm=(0.0, 1.0, 2.0))
    finer = VolumeGrid(40, 40, 60, 0.25, grid.center_cm)
    assert changed_grid(grid, voxel_cm=0.25) == finer
    assert changed_grid(grid, n_z=4, voxel_cm=0.25) == replace(finer, n_z=4)
    with pytest.raises(ValueError, match="voxel_cm"):
        changed_grid(grid, voxel_cm=[1.0, 1.0])
