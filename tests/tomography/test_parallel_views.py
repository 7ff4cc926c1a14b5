"""Views of a parallel beam from any start, in any order and direction, place a disc correctly."""

from math import pi, sqrt

import numpy as np
import pytest
import torch

from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import ParallelBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.tomography.projector import projector

CENTER_CM, RADIUS_CM, DENSITY = (1.6, 0.9), 0.7, 1.3
GRID = ImageGrid(80, 80, 0.1)
N = 240
GOLDEN_RAD = pi * (sqrt(5) - 1) / 2
_even = np.arange(N) / N
_jitter = np.random.default_rng(1).uniform(-0.4, 0.4, N) / N
_shuffled = np.random.default_rng(2).permutation
VIEWS = {
    "from zero": {},
    "from 0.7 rad": {"start_rad": 0.7},
    "a turn from -2 rad": {"start_rad": -2.0, "arc_rad": 2 * pi},
    "clockwise": {"view_angles_rad": -pi * _even},
    "golden angle": {"view_angles_rad": GOLDEN_RAD * np.arange(N)},
    "golden angle in a half turn": {"view_angles_rad": GOLDEN_RAD * np.arange(N) % pi},
    "uneven half turn": {"view_angles_rad": _shuffled(0.3 + pi * (_even + _jitter))},
    "uneven turn": {"view_angles_rad": _shuffled(2 * pi * (_even + _jitter))},
    "three quarters of a turn": {"view_angles_rad": 1.5 * pi * _even},
    "either side": {"view_angles_rad": pi * (_even + np.arange(N) // 60 % 2)},
    "half of the detector": {
        "view_angles_rad": _shuffled(2 * pi * (_even + _jitter)),
        "n_columns": 55,
        "offset_cm": 2.2,
    },
}


def beam(n_columns=100, **views):
    return ParallelBeam(N, n_columns, 0.1, **views)


def chords(geometry, n_parts=8):
    """Mean line integral over the width of every column: 2 ρ √(R² − (s − s₀)²)."""
    theta = geometry.angles_rad[:, None, None]
    parts = (np.arange(n_parts) + 0.5) / n_parts - 0.5
    s = geometry.columns_cm[:, None] + geometry.pixel_cm * parts
    distance = s - CENTER_CM[0] * np.cos(theta) - CENTER_CM[1] * np.sin(theta)
    length = 2 * np.sqrt(np.clip(RADIUS_CM**2 - distance**2, 0, None))
    return torch.from_numpy(DENSITY * length.mean(-1))


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize("views", VIEWS)
def test_the_disc_has_its_place_and_its_density(views):
    geometry = beam(**VIEWS[views])
    image = (fbp(geometry, GRID, truncation="cosine") @ chords(geometry)).numpy()
    x, y = GRID.positions_cm()
    distance = np.hypot(x - CENTER_CM[0], y - CENTER_CM[1])
    near = np.where(distance < 1.3 * RADIUS_CM, image, 0)
    centroid = [(near * axis).sum() / near.sum() for axis in (x, y)]
    np.testing.assert_allclose(centroid, CENTER_CM, atol=0.01)
    assert image[distance < 0.7 * RADIUS_CM].mean() == pytest.approx(DENSITY, rel=0.01)
    assert np.abs(image[(distance > 1.5 * RADIUS_CM) & (np.hypot(x, y) < 3.5)]).max() < 0.12


@pytest.mark.parametrize("views", VIEWS)
def test_the_widths_of_the_views_sum_to_the_arc(views):
    geometry = beam(**VIEWS[views])
    assert geometry.view_weights_rad.sum() == pytest.approx(geometry.arc_rad)
    assert geometry.arc_rad / pi == pytest.approx(round(geometry.arc_rad / pi))


@pytest.mark.filterwarnings("ignore:truncated")
def test_views_that_leave_a_gap_are_named():
    angles = np.concatenate([pi * _even[20:120], pi * (1 + _even[100:])])
    geometry = ParallelBeam(len(angles), 100, 0.1, view_angles_rad=angles)
    with pytest.raises(ValueError, match=r"8\.3 % of the lines .*gaps at 3\.1\d+ to 3\.397 rad"):
        fbp(geometry, GRID)
    projector(geometry, GRID)


@pytest.mark.filterwarnings("ignore:truncated")
def test_half_of_the_detector_needs_views_of_a_full_turn():
    geometry = beam(55, offset_cm=2.2, view_angles_rad=pi * (_even + _jitter))
    with pytest.raises(ValueError, match="views of a full turn"):
        fbp(geometry, GRID)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start_rad": 90.0}, r"start_rad=90 .* degrees"),
        ({"view_angles_rad": (0.0, 1.0)}, "view_angles_rad .* 240 .* 2"),
        ({"view_angles_rad": (0.0, *pi * _even[1:-1], 2 * pi)}, "twice"),
    ],
)
def test_impossible_views_raise_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        beam(**change)


def test_the_start_is_printed():
    assert str(beam(start_rad=pi / 2)).startswith("ParallelBeam: 240 views over 180° from 90°")
    assert "from" not in str(beam(view_angles_rad=pi * _even)).splitlines()[0]
