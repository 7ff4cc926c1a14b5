"""Redundancy weights count every line once."""

from dataclasses import replace
from math import pi

import numpy as np
import pytest
from cones import SMALL_CONE, SMALL_SHORT_CONE
from truth import SMALL_FAN, SMALL_PARALLEL, SMALL_SHORT_SCAN

from pcctlearn.tomography.weights import (
    cosine_weights,
    displaced_detector_weights,
    redundancy_weights,
    short_scan_weights,
)


@pytest.mark.parametrize("excess", [1e-6, 0.1, 0.8])
def test_conjugate_rays_share_one(excess):
    """Over a full turn every line is met twice; unmeasured views count nothing."""
    fan_half_angle = 0.4
    arc = pi + 2 * fan_half_angle + excess
    beta, gamma = np.meshgrid(
        np.linspace(0, 2 * pi, 721), np.linspace(-fan_half_angle, fan_half_angle, 41)
    )

    def weights(beta, gamma):
        beta = beta % (2 * pi)
        return np.where(beta <= arc, short_scan_weights(beta, gamma, arc), 0)

    total = weights(beta, gamma) + weights(beta + pi - 2 * gamma, -gamma)
    np.testing.assert_allclose(total, 1, atol=1e-12)


def test_conjugate_rays_are_the_same_line():
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


def test_full_scans_share_evenly():
    assert np.all(redundancy_weights(SMALL_FAN) == 0.5)
    assert np.all(redundancy_weights(SMALL_PARALLEL) == 1)
    assert np.all(redundancy_weights(replace(SMALL_PARALLEL, arc_rad=2 * pi)) == 0.5)


def test_cosines_are_those_of_the_rays():
    _, directions = SMALL_SHORT_SCAN.rays()
    theta = SMALL_SHORT_SCAN.angles_rad[:, None]
    central = np.concatenate([-np.sin(theta), np.cos(theta)], -1)
    cosines = np.einsum("vki,vi->vk", directions, central)
    expected = np.broadcast_to(cosine_weights(SMALL_SHORT_SCAN), cosines.shape)
    np.testing.assert_allclose(cosines, expected)
    assert np.all(cosine_weights(SMALL_PARALLEL) == 1)


@pytest.mark.parametrize("beam", [SMALL_CONE, SMALL_SHORT_CONE])
def test_cosines_of_a_cone_are_those_of_its_rays_but_for_the_axis_offset(beam):
    _, directions = beam.rays()
    theta = beam.angles_rad[:, None]
    central = np.concatenate([-np.sin(theta), np.cos(theta), np.zeros_like(theta)], -1)
    cosines = np.einsum("vrki,vi->vrk", directions, central)
    centred = replace(beam, axis_offset_cm=0.0)
    np.testing.assert_allclose(np.broadcast_to(cosine_weights(centred), beam.shape), cosines)
    shift = 1 + 0.15 / 5.0 * beam.columns_cm / 8.0
    np.testing.assert_allclose(cosine_weights(beam), shift * cosine_weights(centred))


def test_cosines_of_an_offset_axis_turn_a_fan_into_parallel_lines():
    """ds dθ = w R dγ dβ: s is the distance of a ray from the axis."""
    beam = replace(SMALL_FAN, axis_offset_cm=0.4, n_columns=2001, pixel_cm=0.004)
    points, directions = beam.rays()
    s = points[0, :, 0] * directions[0, :, 1] - points[0, :, 1] * directions[0, :, 0]
    jacobian = np.gradient(s, beam.gammas_rad)[1:-1] / beam.source_to_axis_cm
    np.testing.assert_allclose(cosine_weights(beam)[1:-1], np.abs(jacobian), rtol=1e-5)


def test_an_arc_below_a_short_scan_is_refused_where_it_is_filtered():
    with pytest.raises(ValueError, match=r"arc of 3\.14159 rad.* π \+ fan angle = 4\.07"):
        redundancy_weights(replace(SMALL_FAN, arc_rad=pi))
    gap = replace(SMALL_CONE, measured_angles_rad=np.linspace(0, 2.5, 5))
    with pytest.raises(ValueError, match=r"arc of 3\.125 rad"):
        redundancy_weights(gap)
    hole = np.radians([*range(0, 100, 5), *range(140, 300, 5)])
    with pytest.raises(ValueError, match=r"leave a hole of 0\.7854 rad"):
        redundancy_weights(replace(SMALL_CONE, n_views=52, measured_angles_rad=hole))


def test_a_displaced_detector_takes_every_line_once():
    gamma = np.linspace(-0.1, 0.1, 21)
    weights = displaced_detector_weights(gamma, 0.1)
    np.testing.assert_allclose(weights + displaced_detector_weights(-gamma, 0.1), 1, atol=1e-12)
    assert weights[0] == pytest.approx(0, abs=1e-12)
    assert displaced_detector_weights(np.array([0.3]), 0.1) == 1


@pytest.mark.parametrize("side", [1, -1])
def test_a_detector_displaced_to_either_side(side):
    with pytest.warns(UserWarning, match="truncated"):
        beam = replace(SMALL_FAN, n_columns=14, pixel_cm=0.4, offset_cm=side * 1.5)
    weights = redundancy_weights(beam)[0]
    long_side = weights[::side]
    assert long_side[0] < 0.05
    assert long_side[-1] == 1
    assert (np.diff(long_side) >= 0).all()
    overlap = 2.8 - 1.5
    at_axis = np.interp(0, beam.columns_cm, weights)
    assert at_axis == pytest.approx(0.5, abs=0.02)
    assert np.interp(side * overlap, beam.columns_cm, weights) == pytest.approx(1, abs=0.05)
    with pytest.warns(UserWarning, match="truncated"):
        blind = replace(beam, offset_cm=side * 3.0)
    with pytest.raises(ValueError, match=r"ends 0\.2 cm before the axis"):
        redundancy_weights(blind)
