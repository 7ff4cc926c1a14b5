"""FDK of a uniform ball returns its density."""

import warnings
from dataclasses import replace
from math import pi, radians

import numpy as np
import pytest
import torch

from pcctlearn.phantoms.ellipses import Ellipse
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.filters import FILTERS
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

DENSITY = 0.8
VOLUME = VolumeGrid(25, 80, 80, (0.25, 0.15, 0.15))
BEAM = ConeBeam(180, 56, 120, (0.3, 0.2), 30.0, 48.0)
SHORT = replace(BEAM, n_views=150, arc_rad=radians(240))


def distance_cm(volume, center):
    """Distance of every voxel from a point (x, y, z)."""
    z, y, x = np.meshgrid(
        volume.slices_cm,
        volume.index_to_cm[1, 1] * np.arange(volume.n_y) + volume.index_to_cm[1, 2],
        volume.index_to_cm[0, 0] * np.arange(volume.n_x) + volume.index_to_cm[0, 2],
        indexing="ij",
    )
    return torch.from_numpy(
        np.sqrt(sum((a - b) ** 2 for a, b in zip((x, y, z), center, strict=True)))
    )


def ball(beam, grid=VOLUME, center=(0.6, -0.4, 0.0), radius=2.5, filter_name="ramp"):
    """The reconstruction of a ball, and the distance of each voxel from its center."""
    phantom = EllipsoidPhantom([Ellipse(center, (radius,) * 3, (DENSITY,))], ["water"])
    volume = fbp(beam, grid, filter_name) @ phantom.line_integrals(*beam.rays())[0]
    return volume, distance_cm(grid, center)


def check_ball(beam, grid=VOLUME, **kwargs):
    volume, distance = ball(beam, grid, **kwargs)
    assert volume[distance < 0.6].mean() == pytest.approx(DENSITY, rel=0.01)
    middle = volume[abs(grid.slices_cm).argmin()]
    inside = distance[abs(grid.slices_cm).argmin()] < 2.1
    assert (middle[inside] - DENSITY).square().mean().sqrt() <= 0.015 * DENSITY


@pytest.mark.parametrize("filter_name", FILTERS)
def test_ball_in_a_full_and_a_short_scan(filter_name):
    check_ball(BEAM, filter_name=filter_name)
    check_ball(SHORT, filter_name=filter_name)


@pytest.mark.parametrize(
    "change",
    [
        {"start_rad": 1.0},
        {"offset_cm": 0.05, "row_offset_cm": 0.4},
        {"axis_offset_cm": 0.3},
        {"axis_offset_cm": -0.4, "offset_cm": -0.5, "start_rad": -0.5},
        {"source_to_axis_cm": 20.0, "source_to_detector_cm": 30.0},
    ],
)
def test_ball_in_other_scanners(change):
    check_ball(replace(BEAM, **change))
    check_ball(replace(SHORT, **change))


@pytest.mark.parametrize("beam", [BEAM, SHORT])
def test_air_beyond_the_measured_circle(beam):
    radius = beam.fov_radius_cm
    grid = VolumeGrid(1, 100, 100, 2 * radius / 100)
    volume, distance = ball(beam, grid, (0.0, 0.0, 0.0), 0.9 * radius)
    corners = volume[distance > radius]
    assert corners.mean().abs() < 0.002
    assert corners.square().mean().sqrt() < 0.03  # streaks between the views


def test_ball_in_a_volume_off_center():
    grid = replace(VOLUME, center_cm=(0.3, -0.2, 0.4))
    check_ball(BEAM, grid)
    check_ball(SHORT, grid)


def test_ball_from_uneven_and_shuffled_views(monkeypatch):
    """Views are weighted by their angular width: half of them lie in a quarter of the turn."""
    dense, sparse = np.arange(100) * radians(0.9), pi / 2 + np.arange(140) * radians(270 / 140)
    angles = np.random.default_rng(1).permutation([*dense, *sparse])
    beam = replace(BEAM, n_views=240, view_angles_rad=angles)
    check_ball(beam)

    def error():
        volume, distance = ball(beam)
        middle = volume[VOLUME.n_z // 2] - DENSITY
        return middle[distance[VOLUME.n_z // 2] < 2.1].square().mean().sqrt()

    weighted = error()
    monkeypatch.setattr(ConeBeam, "view_weights_rad", np.full(240, 2 * pi / 240))
    assert weighted < 0.2 * error()


def test_the_same_short_scan_given_as_a_list():
    listed = replace(SHORT, view_angles_rad=SHORT.angles_rad[::-1])
    y = torch.randn(SHORT.shape)
    torch.testing.assert_close(fbp(listed, VOLUME) @ y.flip(0), fbp(SHORT, VOLUME) @ y)


def test_the_error_at_a_cone_angle_of_5_degrees_is_5_percent():
    """FDK is exact in the plane of the orbit; 5 % at 5° is its textbook error for a ball."""
    volume, distance = ball(BEAM, center=(0.0, 0.0, 1.8), radius=1.2)
    assert volume[distance < 0.5].mean() == pytest.approx(DENSITY, rel=0.05)


@pytest.mark.parametrize(
    ("n_columns", "offset_cm", "axis_offset_cm", "n_warnings"),
    [(80, 3.6, 0.0, 0), (80, -3.6, 0.0, 0), (82, 3.5, 0.2, 0), (66, 2.0, 0.0, 1)],
)
def test_a_displaced_detector_in_a_full_turn(n_columns, offset_cm, axis_offset_cm, n_warnings):
    """In the last case the longer side is truncated, at 8.6 of 9.9 cm, which alone is reported."""
    beam = replace(
        BEAM, n_views=240, n_columns=n_columns, offset_cm=offset_cm, axis_offset_cm=axis_offset_cm
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume, distance = ball(beam, center=(0.4, -0.2, 0.0), radius=4.0)
    sentences = {str(one.message) for one in caught}
    assert len([sentence for sentence in sentences if "truncated: " in sentence]) == n_warnings
    middle, distance = volume[VOLUME.n_z // 2], distance[VOLUME.n_z // 2]
    for ring in range(4):
        inside = (distance >= ring) & (distance < min(ring + 1, 3.7))
        assert middle[inside].mean() == pytest.approx(DENSITY, rel=0.01)


def test_extension_beyond_a_narrow_detector_removes_the_rim():
    narrow = replace(BEAM, n_columns=48)  # 3 cm at the axis
    distance = distance_cm(VOLUME, (0.0, 0.0, 0.0))[VOLUME.n_z // 2]
    rim, core = (distance > 2.5) & (distance < 2.9), distance < 1.0

    def brightness_of_the_rim(volume):
        middle = volume[VOLUME.n_z // 2]
        return middle[rim].mean() / middle[core].mean()

    phantom = EllipsoidPhantom([Ellipse((0.0,) * 3, (4.5,) * 3, (DENSITY,))], ["water"])
    y = phantom.line_integrals(*narrow.rays())[0]
    air_beyond = torch.nn.functional.pad(y, (36, 36))  # what a ramp filter alone assumes
    with pytest.warns(UserWarning, match="truncated"):
        extended = fbp(narrow, VOLUME) @ y
    assert brightness_of_the_rim(extended) == pytest.approx(1, abs=0.1)
    assert brightness_of_the_rim(fbp(BEAM, VOLUME) @ air_beyond) > 1.2


def test_conf_builds_the_operator():
    small = ConeBeam(6, 5, 12, 0.3, 6.0, 9.0)
    operator = fbp(geometry=small, grid=VolumeGrid(4, 8, 8, 0.2), filter="hann", backend="numba")
    assert (operator.in_shape, operator.out_shape) == ((6, 5, 12), (4, 8, 8))
    assert (operator @ torch.ones(2, 3, 6, 5, 12)).shape == (2, 3, 4, 8, 8)
