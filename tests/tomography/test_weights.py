"""Obliquity weights, and redundancy weights that sum to one over each line."""

from dataclasses import replace
from math import pi

import numpy as np
import pytest
from support.cones import SMALL_CONE, SMALL_SHORT_CONE, SMALL_VOLUME
from support.truth import SMALL, SMALL_FAN, SMALL_PARALLEL, SMALL_SHORT_SCAN

from pcctlearn.tomography.weights import cosine_weights, redundancy_weights


def test_conjugate_rays_lie_on_the_same_line():
    """The convention behind the weights: (β, γ) and (β + π − 2γ, −γ)."""
    beam = replace(SMALL_FAN, offset_cm=0.0)
    k = 9
    turn = pi - 2 * beam.gammas_rad[k]
    n_views = 1000
    dense = replace(beam, n_views=n_views)
    points, directions = dense.rays()
    first, second = points[0, k], points[round(turn / (2 * pi) * n_views), -1 - k]
    np.testing.assert_allclose(first, second, atol=0.01)
    assert directions[0, k] @ directions[round(turn / (2 * pi) * n_views), -1 - k] < -0.999


def test_weights_of_a_full_scan_are_one_half():
    assert np.all(redundancy_weights(replace(SMALL_FAN, offset_cm=0.0), SMALL) == 0.5)
    assert np.all(redundancy_weights(SMALL_PARALLEL, SMALL) == 1)
    assert np.all(redundancy_weights(replace(SMALL_PARALLEL, arc_rad=2 * pi), SMALL) == 0.5)


def test_cosine_weights_are_cosines_of_the_rays():
    _, directions = SMALL_SHORT_SCAN.rays()
    theta = SMALL_SHORT_SCAN.angles_rad[:, None]
    central = np.concatenate([-np.sin(theta), np.cos(theta)], -1)
    cosines = np.einsum("vki,vi->vk", directions, central)
    expected = np.broadcast_to(cosine_weights(SMALL_SHORT_SCAN), cosines.shape)
    np.testing.assert_allclose(cosines, expected)
    assert np.all(cosine_weights(SMALL_PARALLEL) == 1)


@pytest.mark.parametrize("beam", [SMALL_CONE, SMALL_SHORT_CONE])
def test_cosine_weights_of_a_cone_without_the_factor_of_the_axis_offset(beam):
    _, directions = beam.rays()
    theta = beam.angles_rad[:, None]
    central = np.concatenate([-np.sin(theta), np.cos(theta), np.zeros_like(theta)], -1)
    cosines = np.einsum("vrki,vi->vrk", directions, central)
    centered = replace(beam, axis_offset_cm=0.0)
    np.testing.assert_allclose(np.broadcast_to(cosine_weights(centered), beam.shape), cosines)
    shift = 1 + 0.15 / 5.0 * beam.columns_cm / 8.0
    np.testing.assert_allclose(cosine_weights(beam), shift * cosine_weights(centered))


def test_cosine_weights_are_the_jacobian_to_parallel_coordinates():
    """ds dθ = w R dγ dβ: s is the distance of a ray from the axis."""
    beam = replace(SMALL_FAN, axis_offset_cm=0.4, n_columns=2001, pixel_cm=0.004)
    points, directions = beam.rays()
    s = points[0, :, 0] * directions[0, :, 1] - points[0, :, 1] * directions[0, :, 0]
    jacobian = np.gradient(s, beam.gammas_rad)[1:-1] / beam.source_to_axis_cm
    np.testing.assert_allclose(cosine_weights(beam)[1:-1], np.abs(jacobian), rtol=1e-5)


def test_fbp_rejects_an_arc_below_a_short_scan():
    with pytest.raises(ValueError, match=r"3\.14159 rad.* = 4\.07"):
        redundancy_weights(replace(SMALL_FAN, arc_rad=pi), SMALL)
    gap = replace(SMALL_CONE, view_angles_rad=np.linspace(0, 2.5, 5))
    with pytest.raises(ValueError, match=r"3\.125 rad"):
        redundancy_weights(gap, SMALL_VOLUME)
    hole = np.radians([*range(0, 100, 5), *range(140, 300, 5)])
    with pytest.raises(ValueError, match=r"1\.702 to 2\.4, 5\.192 to 6\.24 rad"):
        redundancy_weights(replace(SMALL_CONE, n_views=52, view_angles_rad=hole), SMALL_VOLUME)


@pytest.mark.parametrize("side", [1, -1])
def test_a_detector_displaced_to_either_side(side):
    beam = replace(SMALL_FAN, n_columns=14, pixel_cm=0.4, offset_cm=side * 1.5)
    weights = redundancy_weights(beam, SMALL)[0]
    long_side = weights[::side]
    assert long_side[0] < 0.05
    assert long_side[-1] == 1
    assert (np.diff(long_side) >= 0).all()
    overlap = 2.8 - 1.5
    at_axis = np.interp(0, beam.columns_cm, weights)
    assert at_axis == pytest.approx(0.5, abs=0.02)
    assert np.interp(side * overlap, beam.columns_cm, weights) == pytest.approx(1, abs=0.05)
    blind = replace(beam, offset_cm=side * 3.0)
    with pytest.raises(ValueError, match=r" 0\.2 cm .*offset_cm"):
        redundancy_weights(blind, SMALL)


@pytest.mark.parametrize("offset_cm", [-0.2, 0.3, 0.9])
def test_weights_are_one_half_if_the_panel_contains_the_image(offset_cm):
    """The panel is displaced by less than the margin beside the image."""
    beam = replace(SMALL_FAN, n_columns=20, offset_cm=offset_cm)
    weights = redundancy_weights(beam, SMALL)
    within = np.abs(beam.columns_cm) < beam.needed_extent_cm(SMALL)[0]
    np.testing.assert_array_equal(weights[:, within], 0.5)


@pytest.mark.parametrize(
    ("beam", "grid"), [(SMALL_SHORT_SCAN, SMALL), (SMALL_SHORT_CONE, SMALL_VOLUME)]
)
@pytest.mark.parametrize("n_views", [3, 7, 25, 400])
def test_the_weights_of_a_short_scan_sum_to_half_a_turn(beam, grid, n_views):
    """∫ w dβ = π for γ and −γ together, and no view has weight zero."""
    beam = replace(beam, n_views=n_views, offset_cm=0.0, axis_offset_cm=0.0)
    weights = redundancy_weights(beam, grid)
    total = beam.view_weights_rad @ weights
    np.testing.assert_allclose((total + total[::-1]) / 2, pi, rtol=1e-3)
    assert (weights > 0).all()
    assert weights[0].mean() > 0.1 / n_views


@pytest.mark.parametrize("n_views", [5, 25])
def test_a_short_scan_of_a_distant_source_is_a_parallel_half_turn(n_views):
    source_cm = 1e5
    arc_rad = pi + 2 * 4.2 / source_cm
    beam = replace(
        SMALL_FAN, n_views=n_views, source_to_axis_cm=source_cm,
        source_to_detector_cm=1.1 * source_cm, offset_cm=0.0, arc_rad=arc_rad,
    )  # fmt: skip
    expected = redundancy_weights(replace(SMALL_PARALLEL, n_views=n_views, n_columns=12), SMALL)
    np.testing.assert_allclose(redundancy_weights(beam, SMALL), expected, atol=1e-3)
