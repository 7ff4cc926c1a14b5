"""Filtered back-projection of a uniform disc returns its density."""

from dataclasses import replace
from math import pi

import pytest
import torch
from support.truth import SMALL, SMALL_FAN, SMALL_PARALLEL, image, sinogram

from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.filters import FILTERS
from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.tomography.projector import projector

GRID = ImageGrid(120, 128, 0.1)
DISC = (1.2, -0.9, 3.0, 3.0, 0.0, 0.8)
INTERIOR = (1.2, -0.9, 2.7, 2.7, 0.0, 1.0)
PARALLEL = ParallelBeam(200, 140, 0.1)
FAN = FanBeam(360, 160, 0.2, 20.0, 36.0)


def check_disc(beam, filter_name="ramp"):
    inside = image(GRID, [INTERIOR], oversampling=1) > 0
    result = fbp(beam, GRID, filter_name, backend="numba") @ sinogram(beam, [DISC])
    values = result[inside]
    assert values.mean() == pytest.approx(0.8, rel=0.01)
    assert (values - 0.8).square().mean().sqrt() <= 0.01 * 0.8
    far = image(GRID, [(1.2, -0.9, 3.4, 3.4, 0.0, 1.0)], oversampling=1) == 0
    circle = image(GRID, [(0.0, 0.0, 5.8, 5.8, 0.0, 1.0)], oversampling=1) > 0
    assert result[far & circle].mean().abs() <= 0.01 * 0.8


@pytest.mark.parametrize("filter_name", FILTERS)
def test_disc_in_a_parallel_beam(filter_name):
    check_disc(PARALLEL, filter_name)


@pytest.mark.parametrize(
    "beam",
    [
        replace(PARALLEL, n_views=400, arc_rad=2 * pi, offset_cm=0.025),
        FAN,
        replace(FAN, offset_cm=0.05),
        replace(FAN, n_views=300, arc_rad=4.2),
        replace(FAN, n_views=300, arc_rad=5.5, offset_cm=-0.05),
    ],
)
def test_disc_in_other_beams(beam):
    check_disc(beam)


NARROW = {
    "parallel": replace(PARALLEL, n_views=400),
    "fan": FAN,
    "short fan": replace(FAN, arc_rad=4.2),
    "displaced parallel": replace(PARALLEL, n_views=800, arc_rad=2 * pi, offset_cm=2.0),
    "displaced fan": replace(FAN, n_views=720, offset_cm=4.0),
}


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize("beam", NARROW.values(), ids=NARROW)
@pytest.mark.parametrize("relative_radius", [0.4, 0.9])
def test_air_beyond_the_measured_circle(beam, relative_radius):
    # corners of the grid are projected beyond the detector in some of the views
    grid = beam.default_grid()
    grid = ImageGrid(grid.n_y, grid.n_x, grid.voxel_cm)
    radius = beam.measured_radius_cm
    disc = (0.05 * radius, -0.04 * radius, *(2 * [relative_radius * radius]), 0.0, 1.0)
    result = fbp(beam, grid, backend="numba") @ sinogram(beam, [disc])
    circle = image(grid, [(0.0, 0.0, radius, radius, 0.0, 1.0)], oversampling=1) > 0
    corners = result[~circle]
    assert corners.mean().abs() < 0.001
    assert corners.square().mean().sqrt() < 0.02  # streaks between the views


@pytest.mark.parametrize("name", ["parallel", "fan"])
def test_columns_that_measure_air_change_no_voxel(name):
    beam = replace(NARROW[name], n_views=50)
    wide = replace(beam, n_columns=beam.n_columns + 200)
    grid = ImageGrid(80, 80, 2 * beam.fov_radius_cm / 80)
    y = torch.rand(beam.shape)
    expected = fbp(wide, grid) @ torch.nn.functional.pad(y, (100, 100))
    torch.testing.assert_close(fbp(beam, grid) @ y, expected)


def test_conf_builds_the_operator():
    small = ParallelBeam(6, 12, 0.1)
    operator = fbp(geometry=small, grid=ImageGrid(8, 8, 0.1), filter="hann")
    assert (operator.in_shape, operator.out_shape) == ((6, 12), (8, 8))
    assert (operator @ torch.ones(2, 3, 6, 12)).shape == (2, 3, 8, 8)


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize("truncation", ["cosine", "water"])
@pytest.mark.parametrize("beam", [SMALL_PARALLEL, SMALL_FAN, replace(SMALL_FAN, n_columns=9)])
def test_a_volume_of_one_slice_is_an_image(beam, truncation):
    volume = SMALL.as_volume()
    x = torch.randn(2, *SMALL.shape)
    y = projector(beam, SMALL) @ x
    rows = projector(beam, volume) @ x[:, None]
    assert torch.equal(rows[:, :, 0], y)
    expected = fbp(beam, SMALL, truncation=truncation) @ y
    assert torch.equal((fbp(beam, volume, truncation=truncation) @ rows)[:, 0], expected)


@pytest.mark.filterwarnings("ignore:truncated")
def test_a_slice_with_oblong_voxels_beside_the_axis():
    beam = replace(PARALLEL, n_views=60, n_columns=150)
    grid = VolumeGrid(1, 40, 50, (0.3, 0.15, 0.1), center_cm=(0.0, -0.9, 1.2))
    result = fbp(beam, grid) @ sinogram(beam, [DISC])[:, None]
    assert result[0, 15:25, 20:30].mean() == pytest.approx(0.8, rel=0.01)
