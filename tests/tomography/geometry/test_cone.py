"""Rays of a cone beam, the voxels that it measures, and errors for impossible cones."""

import re
from dataclasses import replace
from math import inf, nan, pi, radians

import numpy as np
import pytest
import torch
from support.cones import SMALL_CONE, SMALL_CONES, SMALL_SHORT_CONE, SMALL_VOLUME

from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.kernels.cone_coefficients import cone_coefficients
from pcctlearn.tomography.projector import projector

WIDE = VolumeGrid(8, 8, 8, 0.5)
CONES = pytest.mark.parametrize(("beam", "grid"), SMALL_CONES.values(), ids=SMALL_CONES)


def test_source_and_panel_follow_the_convention():
    beam = ConeBeam(4, 3, 5, (0.4, 0.6), 10.0, 16.0, offset_cm=0.1, row_offset_cm=-0.2)
    sources, pixels = beam.sources_cm(), beam.pixels_cm()
    np.testing.assert_allclose(sources[0], [0, -10, 0], atol=1e-12)
    np.testing.assert_allclose(sources[1], [10, 0, 0], atol=1e-12)  # counter-clockwise
    np.testing.assert_allclose(pixels[0, 0, 0], [-2 * 0.6 + 0.1, 6, -0.4 - 0.2], atol=1e-12)
    np.testing.assert_allclose(pixels[0, 2, 4], [2 * 0.6 + 0.1, 6, 0.4 - 0.2], atol=1e-12)
    np.testing.assert_allclose(pixels[1, 0, 0], [-6, -2 * 0.6 + 0.1, -0.4 - 0.2], atol=1e-12)


def test_an_axis_offset_moves_source_and_panel_against_the_columns():
    beam = ConeBeam(4, 3, 9, 0.8, 10.0, 16.0, axis_offset_cm=0.3)
    np.testing.assert_allclose(beam.sources_cm()[0], [-0.3, -10, 0], atol=1e-12)
    np.testing.assert_allclose(beam.pixels_cm()[0, 1, 4], [-0.3, 6, 0], atol=1e-12)
    assert sum(beam.detector_extent_cm) == pytest.approx(9 * 0.8)
    assert beam.detector_extent_cm[1] - beam.detector_extent_cm[0] == pytest.approx(-2 * 1.6 * 0.3)


@CONES
def test_the_field_of_view_touches_the_end_of_the_panel(beam, grid):
    angles = np.linspace(0, 2 * pi, 3600)
    for share, falls_within in ((0.999, True), (1.001, False)):
        radius = share * beam.fov_radius_cm
        points = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.ones(3600)])
        row, depth = np.moveaxis(beam.projections() @ points, 1, 0)
        column = row / depth
        within = (column >= -0.5) & (column <= beam.n_columns - 0.5)
        assert within.all() == falls_within


@CONES
def test_points_on_a_ray_fall_on_its_pixel(beam, grid):
    """The coefficients of the compiled operators describe the rays of the geometry."""
    sources, directions = beam.rays()
    c = cone_coefficients(beam, grid)
    points = sources + (beam.source_to_axis_cm + 0.7) * directions
    to_index = np.linalg.inv(grid.index_to_cm)
    flat = np.concatenate([points[..., :2], np.ones((*beam.shape, 1))], -1) @ to_index.T
    along, depth = np.einsum("vij,vrcj->ivrc", c.projections, flat)
    np.testing.assert_allclose(
        along / depth, np.broadcast_to(np.arange(beam.n_columns), beam.shape), atol=1e-9
    )
    row = np.arange(beam.n_rows)[:, None]
    row_scale, row_start, slice_start = c.axial
    z = depth * (row_scale * row + row_start) + slice_start
    slices = (points[..., 2] - grid.slices_cm[0]) / grid.spacing_cm[0]
    np.testing.assert_allclose(z, slices, atol=1e-9)


def test_steps_along_a_ray_have_its_depths_and_lengths():
    c, (_, directions) = cone_coefficients(SMALL_CONE, SMALL_VOLUME), SMALL_CONE.rays()
    in_plane = np.linalg.norm(directions[..., :2], axis=-1)
    np.testing.assert_allclose(1 / in_plane[0], c.obliquity.T, rtol=1e-12)
    for view, column in ((0, 3), (2, 8), (4, 0)):
        steep = c.is_steep[view, column]
        intercept, slope, _ = c.lines[view, column]
        for step in (0, 3):
            slot = intercept + slope * step
            point = np.array([slot, step, 1.0] if steep else [step, slot, 1.0])
            depth = c.projections[view, 1] @ point
            assert c.depths[view, column] @ [1, step] == pytest.approx(depth)


def test_the_plane_of_the_orbit_is_a_fan():
    scanner = {"source_to_axis_cm": 9.0, "source_to_detector_cm": 13.0, "offset_cm": 0.2}
    turn = {"arc_rad": 4.5, "start_rad": 0.4, "axis_offset_cm": -0.1}
    fan = FanBeam(6, 12, 0.7, **scanner, **turn)
    cone = ConeBeam(6, 3, 12, 0.7, **scanner, **turn)
    np.testing.assert_allclose(cone.rays()[1][:, 1, :, :2], fan.rays()[1], atol=1e-12)
    np.testing.assert_array_equal(cone.projections(), fan.projections())


def test_listed_angles_in_any_order_have_their_angular_widths():
    regular = replace(SMALL_SHORT_CONE, start_rad=0.0)
    shuffled = np.random.default_rng(0).permutation(regular.angles_rad)
    listed = replace(regular, view_angles_rad=shuffled.tolist())
    assert listed.arc_rad == pytest.approx(regular.arc_rad)
    np.testing.assert_allclose(listed.view_weights_rad, regular.view_weights_rad)
    assert listed.is_short_scan

    np.testing.assert_allclose(listed.coverage().centers_rad, shuffled, atol=1e-12)

    turn = np.arange(12) * pi / 6 + 0.1 * np.sin(np.arange(12))
    full = replace(SMALL_CONE, n_views=12, view_angles_rad=turn)
    assert not full.is_short_scan
    assert full.view_weights_rad.sum() == pytest.approx(2 * pi)
    assert full.view_weights_rad[3] == pytest.approx((turn[4] - turn[2]) / 2)
    assert full.view_weights_rad[0] == pytest.approx((turn[1] - turn[11] + 2 * pi) / 2)


@pytest.mark.parametrize("first_deg", [0, 200, -170, 700])
@pytest.mark.parametrize("wrap", [False, True])
def test_angles_are_modulo_a_turn(first_deg, wrap):
    """The angles of a short scan may pass 360°, or be any multiple of it away."""
    angles = radians(first_deg) + np.arange(24) * radians(10)
    listed = np.mod(angles, 2 * pi) if wrap else angles
    beam = replace(SMALL_CONE, n_views=24, view_angles_rad=listed)
    assert beam.arc_rad == pytest.approx(radians(240))
    np.testing.assert_allclose(beam.view_weights_rad, radians(10))
    from_first = beam.coverage().gaps_rad[0] - radians(first_deg)
    np.testing.assert_allclose(from_first % (2 * pi), np.radians([235, 355]))


def test_missing_views_are_a_gap():
    angles = np.radians([*range(0, 100, 5), *range(140, 240, 5)])
    beam = replace(SMALL_CONE, n_views=40, view_angles_rad=angles)
    np.testing.assert_allclose(
        np.degrees(beam.coverage().gaps_rad), [[97.5, 137.5], [237.5, 357.5]]
    )
    assert beam.arc_rad == pytest.approx(radians(200))
    few = replace(SMALL_CONE, n_views=2, view_angles_rad=[0.0, 5.0])
    assert few.arc_rad == pytest.approx(2 * pi)


@pytest.mark.parametrize(
    ("offset_cm", "n_columns", "grid", "n_views"),
    [
        (9.0, 6, VolumeGrid(4, 4, 40, 0.5), 2),
        (0.0, 9, VolumeGrid(1, 4, 4, (10.0, 0.5, 0.5), center_cm=(6.0, 0.0, 0.0)), 4),
    ],
    ids=["long", "thick"],
)
def test_a_volume_that_is_projected_at_one_end_only_is_accepted(
    offset_cm, n_columns, grid, n_views
):
    """Its projection is nonzero in ``n_views`` of the four views."""
    beam = ConeBeam(4, 4, n_columns, 0.8, 15.0, 20.0, offset_cm=offset_cm)
    with pytest.warns(UserWarning, match="truncated"):
        A = projector(beam, grid)
    shown = (A @ torch.ones(A.in_shape)).amax((1, 2)) > 0
    assert shown.sum() == n_views


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_rows": 0}, "n_rows .* 0"),
        ({"pixel_cm": (0.5, -0.5)}, r"pixel_cm .* -0\.5"),
        ({"pixel_cm": (0.5, 0.5, 0.5)}, r"pixel_cm .*\(row, column\)"),
        ({"source_to_detector_cm": inf}, "source_to_detector_cm .* inf"),
        ({"axis_offset_cm": 5.0}, r"axis_offset_cm .* source_to_axis_cm = 5\.0"),
        ({"arc_rad": 7.0}, r"arc_rad .* 7"),
        ({"arc_rad": 0.0}, r"arc_rad .* 0\.0"),
        ({"view_angles_rad": [0.0, 1.0]}, "view_angles_rad .*n_views = 5 .* 2"),
        ({"view_angles_rad": [0.0, 1.0, 2.0, 1.0, 3.0]}, "view_angles_rad .* twice"),
        ({"view_angles_rad": np.linspace(0, 2 * pi, 5)}, "view_angles_rad .* twice"),
        ({"start_rad": nan}, "start_rad .* nan"),
        ({"row_offset_cm": nan}, "row_offset_cm .* nan"),
    ],
)
def test_an_impossible_cone_raises_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL_CONE, **change)


@pytest.mark.parametrize(
    ("change", "grid", "message"),
    [
        ({"source_to_axis_cm": 1.5}, SMALL_VOLUME, r"source_to_axis_cm .* 1\.947 cm.* 1\.5"),
        ({"source_to_axis_cm": 2.5}, SMALL_VOLUME, r" 0\.55\d* cm .* two voxels"),
        ({"row_offset_cm": 30.0}, SMALL_VOLUME, r"beside the panel.* 17\.5"),
        ({"offset_cm": 30.0}, SMALL_VOLUME, "beside the panel"),
        ({}, replace(SMALL_VOLUME, center_cm=(20.0, 0.0, 0.0)), "beside the panel.*center_cm"),
    ],
)
@pytest.mark.parametrize("make", [projector, fbp])
def test_a_grid_that_cannot_be_projected_raises_an_error(make, change, grid, message):
    with pytest.raises(ValueError, match=message):
        make(replace(SMALL_CONE, **change), grid)


@pytest.mark.parametrize("make", [projector, fbp])
def test_truncation_warns_once_when_the_operator_is_built(make):
    with pytest.warns(UserWarning, match=r"truncated.* 2\.4 cm.* 3\.\d+ cm") as caught:
        make(ConeBeam(5, 12, 6, 0.8, 10.0, 16.0), WIDE)
    assert len(caught) == 1


def projected_rows(beam, grid):
    """(view, z, y, x): row at which the line from the source through a voxel meets the panel."""
    i, j = np.meshgrid(np.arange(grid.n_x), np.arange(grid.n_y))
    flat = np.stack([i, j, np.ones_like(i)], -1) @ grid.index_to_cm.T
    toward = beam.frames()[1]
    depth = (flat[..., :2] - beam.sources_cm()[:, None, None, :2]) @ toward[:, None, :2, None]
    z_cm = grid.slices_cm[:, None, None] * beam.source_to_detector_cm / depth[:, None, ..., 0]
    return (z_cm - beam.rows_cm[0]) / beam.row_cm


@pytest.mark.parametrize("n_z", [3, 40])
@pytest.mark.parametrize(
    "change", [{}, {"arc_rad": 3.6}, {"row_offset_cm": 1.0}, {"row_offset_cm": -1.8}]
)
def test_visible_in_z_marks_voxels_projected_onto_the_rows_in_every_view(n_z, change):
    volume = VolumeGrid(n_z, 7, 5, (0.21, 0.4, 0.5), center_cm=(-0.13, 0.2, 0.1))
    beam = ConeBeam(9, 8, 12, (0.37, 0.6), 8.0, 13.0, axis_offset_cm=0.2, **change)
    rows = projected_rows(beam, volume)
    expected = ((rows >= -0.5) & (rows <= beam.n_rows - 0.5)).all(0)
    visible = beam.visible_in_z(volume)
    np.testing.assert_array_equal(visible, expected)
    assert not beam.visible_in_all_views(volume)[~visible].any()
    if n_z == 40:
        assert visible.any()
        assert not visible.all()


@pytest.mark.parametrize("row_offset_cm", [0.0, 0.7, -0.4])
@pytest.mark.parametrize("center_cm", [0.0, 0.5])
@pytest.mark.parametrize("setting", ["n_rows", "n_z"])
def test_the_warning_of_truncation_along_z_has_a_remedy_that_works(
    row_offset_cm, center_cm, setting
):
    volume = VolumeGrid(12, 8, 8, (0.52, 0.5, 0.5), center_cm=(center_cm, 0.0, 0.0))
    beam = ConeBeam(5, 9, 20, 0.5, 10.0, 16.0, row_offset_cm=row_offset_cm)
    with pytest.warns(UserWarning, match=r"along z.* 12 slices") as caught:
        fbp(beam, volume)
    assert len(caught) == 1
    assert not beam.visible_in_z(volume).all()
    number = int(re.search(rf"{setting}=(\d+)", str(caught[0].message))[1])

    def changed(number):
        if setting == "n_z":
            return beam, replace(volume, n_z=number)
        return replace(beam, n_rows=number), volume

    repaired, grid = changed(number)
    assert repaired.truncations(grid) == []
    x, y = np.meshgrid(*2 * [np.arange(-1.75, 2, 0.5)])
    assert repaired.visible_in_z(grid)[:, np.hypot(x, y) <= 2].all()
    with pytest.warns(UserWarning, match="along z"):  # the remedy is the smallest change
        fbp(*changed(number + (1 if setting == "n_z" else -1)))


@pytest.mark.parametrize(
    "change", [{}, {"axis_offset_cm": 0.4}, {"n_columns": 2000}, {"row_offset_cm": 20.0}]
)
def test_the_default_grid_is_the_field_of_view(change):
    beam = replace(SMALL_CONE, **change)
    grid = beam.default_grid()
    beam.require_grid(grid)
    size = 2 * min(beam.fov_radius_cm, 2.5)
    assert size - 2 * grid.spacing_cm[2] <= grid.n_x * grid.spacing_cm[2] <= size * (1 + 1e-9)
    assert max(grid.shape) <= 512
    if not change:
        assert beam.is_truncated(grid) == (False, False)
        assert beam.whole_slices(grid).all()
        assert grid.spacing_cm == pytest.approx((0.55 / 1.6, 0.6 / 1.6, 0.6 / 1.6))


def test_no_default_grid_without_a_field_of_view():
    with pytest.raises(ValueError, match="no field of view"):
        replace(SMALL_CONE, offset_cm=30.0).default_grid()


def test_the_flux_falls_as_the_solid_angle_of_a_pixel():
    """The photons from a point source in a pixel of area A are proportional to A cos α / r²."""
    sources, pixels = SMALL_CONE.sources_cm()[0], SMALL_CONE.pixels_cm()[0]
    distance = np.linalg.norm(pixels - sources, axis=-1)
    cosine = SMALL_CONE.source_to_detector_cm / distance
    expected = cosine * (SMALL_CONE.source_to_detector_cm / distance) ** 2
    np.testing.assert_allclose(SMALL_CONE.relative_flux(), expected)


def test_print_shows_a_summary():
    text = str(SMALL_SHORT_CONE)
    assert "7 views over 288° from 40.11°" in text
    assert "source to axis 5 cm, to detector 8 cm, magnification 1.6" in text
    assert "panel of 7 rows × 12 columns of 0.55 × 0.6 cm" in text
    assert "offsets (cm): columns -0.2, rows 0.3, axis 0.15" in text
    low, high = SMALL_SHORT_CONE.axial_range_cm
    assert f"z from {low:.4g} to {high:.4g} cm" in text
    text = str(SMALL_VOLUME)
    assert "6 × 4 × 5 voxels (z, y, x) of 0.45 × 0.6 × 0.5 cm, 2.7 × 2.4 × 2.5 cm" in text
