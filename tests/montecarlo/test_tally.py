"""Smoothing reproduces parabolas, and standard errors are those of the mean."""

import numpy as np
import pytest

from pcctlearn.montecarlo.tally import Accumulator, relative_noise, smoothing_matrix

COARSE, FINE = (np.arange(24) - 11.5) * 0.4, (np.arange(96) - 47.5) * 0.1


@pytest.mark.parametrize("sigma_cm", [0.0, 0.2, 0.5, 2.4, 50.0])
@pytest.mark.parametrize("at_cm", [FINE, COARSE, FINE[::-1]], ids=["fine", "same", "falling"])
def test_rows_sum_to_one(at_cm, sigma_cm):
    matrix = smoothing_matrix(at_cm, COARSE, sigma_cm)
    assert matrix.shape == (len(at_cm), len(COARSE))
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-9)


@pytest.mark.parametrize("sigma_cm", [0.2, 0.5, 2.4, 50.0])
def test_parabola_is_reproduced_up_to_the_ends(sigma_cm):
    matrix = smoothing_matrix(FINE, COARSE, sigma_cm)

    def parabola(x):
        return 30 - 0.7 * x - 0.2 * x**2

    np.testing.assert_allclose(matrix @ parabola(COARSE), parabola(FINE), rtol=1e-6)


def test_zero_sigma_interpolates():
    values = np.random.default_rng(0).normal(size=len(COARSE))
    expected = np.interp(FINE, COARSE, values)  # constant beyond the last samples
    np.testing.assert_allclose(smoothing_matrix(FINE, COARSE, 0.0) @ values, expected, rtol=1e-9)
    assert np.array_equal(smoothing_matrix(COARSE, COARSE, 0.0).round(12), np.eye(len(COARSE)))


def test_one_sample_gives_a_constant():
    assert np.array_equal(smoothing_matrix(FINE, COARSE[:1], 2.4), np.ones((len(FINE), 1)))


def test_noise_reduction_of_the_smoothing():
    middle = smoothing_matrix(np.zeros(1), (np.arange(201) - 100) * 0.1, 1.0)
    # Σ w² of the kernel (3/2 − x²/2σ²) φ(x/σ): 27 Δ / (32 σ √π)
    assert (middle**2).sum() == pytest.approx(0.1 * 27 / (32 * np.sqrt(np.pi)), rel=1e-6)


def test_accumulated_mean_and_standard_error():
    # a mean much larger than the spread, for which sums of squares would lose precision
    values = 1e6 + np.random.default_rng(1).normal(size=(50, 3, 4))
    sums = Accumulator()
    for value in values:
        sums.add(value)
    assert sums.n == 50
    np.testing.assert_allclose(sums.mean, values.mean(0), rtol=1e-12)
    expected = values.std(0, ddof=1) / np.sqrt(50)
    np.testing.assert_allclose(sums.standard_error, expected, rtol=1e-7)


def test_relative_noise_excludes_weak_scatter():
    mean = np.array([[[1.0, 0.5, 0.2]], [[0.0, 0.0, 0.0]]])
    error = np.array([[[0.1, 0.1, 9.0]], [[0.0, 0.0, 0.0]]])
    np.testing.assert_allclose(relative_noise(mean, error), [0.15, 0.0])
