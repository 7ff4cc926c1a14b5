"""Density of a disc with lost views, displaced panels and short scans."""

import re
from dataclasses import replace
from math import pi, radians

import numpy as np
import pytest
from support.truth import image, sinogram

from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import ImageGrid

pytestmark = pytest.mark.filterwarnings("ignore:truncated")

GRID = ImageGrid(60, 64, 0.2)
DENSITY = 0.8
DISC = (0.6, -0.5, 4.0, 4.0, 0.0, DENSITY)
INSIDE = image(GRID, [(0.6, -0.5, 3.4, 3.4, 0.0, 1.0)], oversampling=1) > 0
FAN = FanBeam(720, 80, 0.4, 20.0, 36.0)
HALF_FAN = replace(FAN, n_columns=44, offset_cm=5.2)  # from −3.6 to 14 cm
HALF_PARALLEL = ParallelBeam(720, 44, 0.2, 2 * pi, offset_cm=2.6)  # from −1.8 to 7 cm


def without(beam, *lost):
    """The beam without some ranges of views, its angles listed."""
    kept = np.setdiff1d(np.arange(beam.n_views), np.concatenate([np.arange(*r) for r in lost]))
    return replace(beam, n_views=len(kept), view_angles_rad=beam.angles_rad[kept])


def error(beam):
    """RMS error within the disc, over its density."""
    values = (fbp(beam, GRID, backend="numba") @ sinogram(beam, [DISC]))[INSIDE]
    return float((values / DENSITY - 1).square().mean().sqrt())


@pytest.mark.parametrize(
    "lost",
    [[(100, 102)], [(100, 102), (400, 402)], [(0, 5), (719, 720)], [(7, 700, 90)], [(100, 108)]],
)
def test_a_displaced_panel_with_lost_views(lost):
    assert error(without(HALF_FAN, *lost)) < min(1.1 * error(HALF_FAN), 0.003)


@pytest.mark.parametrize("lost", [[(100, 102)], [(30, 60)], [(200, 420)], [(0, 40), (180, 220)]])
def test_conjugate_rays_replace_lost_views(lost):
    assert error(without(FAN, *lost)) < 0.003


@pytest.mark.parametrize("offset_cm", [2.6, -2.6])
@pytest.mark.parametrize("half_turns", [2, 3, 4])
def test_a_displaced_panel_in_a_parallel_beam(offset_cm, half_turns):
    beam = replace(HALF_PARALLEL, offset_cm=offset_cm, arc_rad=half_turns * pi)
    assert error(beam) < 0.004


@pytest.mark.parametrize(
    "beam",
    [
        replace(HALF_FAN, arc_rad=radians(225)),
        replace(HALF_FAN, arc_rad=radians(300)),
        replace(HALF_PARALLEL, arc_rad=pi, n_views=360),
        without(HALF_FAN, (100, 130)),
    ],
)
def test_a_displaced_panel_needs_a_full_turn(beam):
    with pytest.raises(ValueError, match="full turn") as caught:
        fbp(beam, GRID)
    n_columns, offset_cm = re.search(
        r"n_columns=(\d+), offset_cm=(\S+)\)", str(caught.value)
    ).groups()
    cropped = replace(beam, n_columns=int(n_columns), offset_cm=float(offset_cm))
    np.testing.assert_allclose(beam.columns_cm[: int(n_columns)], cropped.columns_cm, atol=1e-9)
    fbp(cropped, GRID, backend="numba")


@pytest.mark.parametrize("n_views", [25, 60, 300])
@pytest.mark.parametrize("source_cm", [20.0, 1e4])
def test_few_views_of_a_short_scan_keep_the_density(n_views, source_cm):
    """The fan is wider or narrower than the step between views."""
    beam = replace(
        FAN, n_views=n_views, source_to_axis_cm=source_cm, source_to_detector_cm=1.8 * source_cm,
    )  # fmt: skip
    beam = replace(beam, arc_rad=pi + 2 * np.abs(beam.gammas_rad).max())
    values = (fbp(beam, GRID, backend="numba") @ sinogram(beam, [DISC]))[INSIDE]
    assert values.mean() / DENSITY == pytest.approx(1, abs=2e-3)


def test_a_small_image_of_a_large_object_on_a_displaced_panel():
    """The shorter side contains the image and truncates the object."""
    values = fbp(HALF_FAN, ImageGrid(12, 12, 0.2)) @ sinogram(HALF_FAN, [DISC])
    assert (values / DENSITY - 1).abs().max() < 0.01
