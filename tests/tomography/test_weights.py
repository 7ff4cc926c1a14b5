"""Redundancy weights count every line once."""

from dataclasses import replace
from math import pi

import numpy as np
import pytest
from truth import SMALL_FAN, SMALL_PARALLEL, SMALL_SHORT_SCAN

from pcctlearn.tomography.weights import cosine_weights, redundancy_weights, short_scan_weights


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
