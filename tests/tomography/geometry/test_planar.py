"""Rays of parallel and fan beams, and errors for impossible beams."""

from dataclasses import replace
from math import inf, nan, pi

import numpy as np
import pytest
import torch
from support.truth import SMALL, SMALL_FAN, SMALL_PARALLEL

from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.tomography.projector import projector


def test_parallel_rays_follow_the_convention():
    points, directions = SMALL_PARALLEL.rays()
    theta = SMALL_PARALLEL.angles_rad[:, None]
    s = points[..., 0] * np.cos(theta) + points[..., 1] * np.sin(theta)
    np.testing.assert_allclose(s, np.tile((np.arange(11) - 5) * 0.45 + 0.1, (5, 1)), atol=1e-12)
    expected = np.broadcast_to(np.stack([-np.sin(theta), np.cos(theta)], -1), directions.shape)
    np.testing.assert_allclose(directions, expected, atol=1e-12)


def test_fan_rays_run_from_the_source_to_their_pixel():
    points, directions = SMALL_FAN.rays()
    theta = SMALL_FAN.angles_rad[:, None, None]
    source = 5 * np.concatenate([np.sin(theta), -np.cos(theta)], -1)
    detector = -3 / 5 * source
    along = np.concatenate([np.cos(theta), np.sin(theta)], -1)
    pixels = detector + SMALL_FAN.columns_cm[:, None] * along
    to_pixel = (pixels - source) / np.linalg.norm(pixels - source, axis=-1, keepdims=True)
    np.testing.assert_allclose(directions, to_pixel, atol=1e-12)
    off = points - source
    off -= (off * directions).sum(-1, keepdims=True) * directions
    np.testing.assert_allclose(off, 0, atol=1e-12)


@pytest.mark.parametrize("beam", [SMALL_PARALLEL, SMALL_FAN])
def test_points_on_a_ray_fall_on_its_column(beam):
    points, directions = beam.rays()
    on_ray = np.concatenate([points + 0.7 * directions, np.ones((*beam.shape, 1))], -1)
    numerator, depth = np.einsum("vij,vkj->ivk", beam.projections(), on_ray)
    columns = np.broadcast_to(np.arange(beam.n_columns), beam.shape)
    np.testing.assert_allclose(numerator / depth, columns, atol=1e-12)


def test_a_fan_with_a_distant_source_is_a_parallel_beam():
    distance = 1e9
    fan = FanBeam(5, 11, 0.45, distance, distance + 10, 2 * pi, offset_cm=0.1)
    for near, far in zip(replace(SMALL_PARALLEL, arc_rad=2 * pi).rays(), fan.rays(), strict=True):
        np.testing.assert_allclose(near, far, atol=1e-7)


def test_image_row_zero_is_on_top():
    corner = SMALL.index_to_cm @ [0, 0, 1]
    np.testing.assert_allclose(corner, [-3 * 0.5, 2.5 * 0.5, 1])


@pytest.mark.parametrize(
    ("beam", "change", "message"),
    [
        (SMALL_PARALLEL, {"n_views": 0}, "n_views .* 0"),
        (SMALL_PARALLEL, {"n_columns": -1}, "n_columns .* -1"),
        (SMALL_PARALLEL, {"pixel_cm": nan}, "pixel_cm .* nan"),
        (SMALL_PARALLEL, {"arc_rad": 0.0}, r"arc_rad .* 0\.0"),
        (SMALL_PARALLEL, {"arc_rad": 3.5}, r"arc_rad .* 3\.5; .* 3\.14159"),
        (SMALL_FAN, {"pixel_cm": 0.0}, r"pixel_cm .* 0\.0"),
        (SMALL_FAN, {"source_to_axis_cm": inf}, "source_to_axis_cm .* inf"),
        (SMALL_FAN, {"source_to_detector_cm": 4.0}, r"source_to_axis_cm = 5\.0, got 4"),
        (SMALL_FAN, {"arc_rad": 7.0}, r"arc_rad .* 7"),
        (SMALL_FAN, {"offset_cm": nan}, "offset_cm .* nan"),
        (SMALL_FAN, {"start_rad": inf}, "start_rad .* inf"),
        (SMALL_FAN, {"axis_offset_cm": -6.0}, r"axis_offset_cm .* 5\.0.* -6"),
    ],
)
def test_an_impossible_beam_raises_an_error(beam, change, message):
    with pytest.raises(ValueError, match=message):
        replace(beam, **change)


def test_an_impossible_image_raises_an_error():
    with pytest.raises(ValueError, match=r"voxel_cm .* -0\.1"):
        ImageGrid(4, 4, -0.1)


def test_a_rounded_arc_is_accepted():
    assert not FanBeam(7, 12, 0.7, 5.0, 8.0, arc_rad=6.2832).is_short_scan
    ParallelBeam(5, 11, 0.45, arc_rad=3.14159)


@pytest.mark.parametrize("make", [projector, fbp])
def test_truncation_warns_once_when_the_operator_is_built(make):
    with pytest.warns(UserWarning, match=r"truncated.* 1\.35 cm.* 1\.75 cm") as caught:
        make(replace(SMALL_PARALLEL, n_columns=6, offset_cm=0.0), SMALL)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="truncated"):
        make(replace(SMALL_FAN, offset_cm=2.0), SMALL)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_an_image_is_as_wide_as_its_longer_side(shape):
    beam, grid = ParallelBeam(5, 24, 0.5), ImageGrid(*shape, 0.5)
    assert beam.is_truncated(grid) == (True, True)
    assert beam.needed_extent_cm(grid) == (10.0, 10.0)


def test_a_grid_that_reaches_the_source_raises_an_error():
    with pytest.raises(ValueError, match=r"2\.305 cm.* 2\.0"):
        projector(replace(SMALL_FAN, source_to_axis_cm=2.0), SMALL)


def test_a_volume_of_several_slices_raises_an_error():
    SMALL_FAN.require_grid(VolumeGrid(1, 6, 7, 0.5))
    with pytest.raises(ValueError, match=r"FanBeam .*volume of 2.*n_z"):
        SMALL_FAN.require_grid(VolumeGrid(2, 6, 7, 0.5))


def test_the_flux_of_one_row():
    cone = ConeBeam(7, 1, 12, 0.7, 5.0, 8.0, offset_cm=-0.2)
    np.testing.assert_array_equal(SMALL_FAN.relative_flux(), cone.relative_flux())
    np.testing.assert_array_equal(SMALL_PARALLEL.relative_flux(), np.ones((1, 11)))


@pytest.mark.parametrize("beam", [SMALL_PARALLEL, SMALL_FAN])
def test_the_default_grid_is_one_slice_of_the_field_of_view(beam):
    grid = beam.default_grid()
    beam.require_grid(grid)
    assert grid.n_z == 1
    assert grid.fov_radius_cm <= beam.measured_radius_cm * (1 + 1e-9)
    visible = beam.visible_in_all_views(grid)
    assert visible.shape == grid.shape
    assert visible.mean() == pytest.approx(np.pi / 4, abs=0.15)


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize(
    "beam",
    [
        ParallelBeam(240, 60, 0.1, 2 * pi, offset_cm=1.0),
        FanBeam(240, 120, 0.1, 50.0, 100.0, offset_cm=-2.0),
    ],
)
def test_the_default_grid_of_a_displaced_detector_is_that_of_its_longer_side(beam):
    """A disc that only the longer side covers is reconstructed, and the corners are air."""
    grid = beam.default_grid()
    longer = max(beam.detector_extent_cm) / beam.magnification
    assert grid.fov_radius_cm == pytest.approx(longer, rel=0.03)
    points, directions = beam.rays()
    to_center = np.array([0.6, -0.5]) - points
    along = (to_center * directions).sum(-1)
    distance_squared = (to_center**2).sum(-1) - along**2
    sinogram = torch.from_numpy(2 * np.sqrt(np.clip(2.5**2 - distance_squared, 0, None)))
    image = (fbp(beam, grid, truncation="cosine") @ sinogram[:, None])[0].numpy()
    x, y = grid.positions_cm()
    inside, radius = np.hypot(x - 0.6, y + 0.5), np.hypot(x, y)
    assert inside[radius < longer].max() > 2.5
    assert beam.fully_measured(grid).mean() == pytest.approx(pi / 4, abs=0.03)
    assert beam.visible_in_all_views(grid).mean() < 0.4
    error = (image - (inside < 2.5))[np.abs(inside - 2.5) > 0.3]
    assert abs(error.mean()) < 0.002
    assert np.abs(error).max() < 0.1
    assert replace(beam, arc_rad=pi).default_grid().fov_radius_cm <= beam.fov_radius_cm * (1 + 1e-9)


@pytest.mark.parametrize("beam", [SMALL_PARALLEL, SMALL_FAN])
def test_the_field_of_view_touches_an_outermost_ray(beam):
    edges = replace(beam, n_columns=beam.n_columns + 1)  # columns at the edges of those of beam
    points, _ = edges.rays()
    distances_cm = np.linalg.norm(points[0, [0, -1]], axis=-1)
    assert beam.fov_radius_cm == pytest.approx(distances_cm.min())


def test_print_shows_a_summary():
    assert str(SMALL_PARALLEL).startswith("ParallelBeam: 5 views over 180°")
    text = str(SMALL_FAN)
    assert "7 views over 360° from 0°" in text
    assert "source to axis 5 cm, to detector 8 cm, magnification 1.6" in text
    assert "12 columns of 0.7 cm, offset -0.2 cm, axis offset 0 cm" in text
    assert str(SMALL) == (
        "ImageGrid: 6 × 7 voxels (y, x) of 0.5 × 0.5 cm, 3 × 3.5 cm in all, center (0, 0) cm"
    )


def test_a_start_in_degrees_raises_an_error():
    with pytest.raises(ValueError, match=r"start_rad=90 .* degrees"):
        FanBeam(60, 40, 0.5, 50.0, 90.0, start_rad=90.0)


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("beam", [SMALL_PARALLEL, SMALL_FAN])
def test_a_displaced_detector_that_hardly_extends_beyond_the_axis_warns(beam, side):
    grid = ImageGrid(52, 52, 0.1)
    half_cm = beam.n_columns * beam.pixel_cm / 2
    beam = replace(beam, offset_cm=side * (half_cm - 1.3 * beam.pixel_cm), arc_rad=2 * pi)
    (sentence,) = beam.truncations(grid)  # the longer side contains the grid
    assert "1.3 columns" in sentence
    mended = replace(beam, offset_cm=float(sentence.rpartition("=")[2]))
    assert min(mended.detector_extent_cm) == pytest.approx(4 * beam.pixel_cm)
    assert mended.truncations(grid) == []
    assert "object that fills" in mended.truncations(ImageGrid(68, 68, 0.1))[0]
    assert "object that fills" in replace(mended, arc_rad=pi).truncations(grid)[0]
