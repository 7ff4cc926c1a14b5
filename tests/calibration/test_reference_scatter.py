"""The scatter of the lowest threshold: found where it is, and not where it is not."""

import pytest
import torch

from pcctlearn.calibration.reference_scatter import FEWEST_PIXELS, reference_scatter

ERRORS = torch.tensor([[0.09, 0.006], [0.006, 0.0005]], dtype=torch.float64)  # keV²


def estimates(scatter, n_pixels, seed=0):
    """Thresholds of covariance ``scatter`` about a common bias, with errors."""
    generator = torch.Generator().manual_seed(seed)

    def draw(covariance):
        values, vectors = torch.linalg.eigh(covariance)
        z = torch.randn(n_pixels, 2, generator=generator, dtype=torch.float64)
        return (z * values.clamp(min=0).sqrt()) @ vectors.T

    found = 50.0 + draw(torch.tensor(scatter, dtype=torch.float64)) + draw(ERRORS)
    return found, ERRORS.expand(n_pixels, 2, 2)


def test_the_scatter_is_found():
    true = [[0.04, 0.06], [0.06, 0.13]]
    found = reference_scatter(*estimates(true, 20_000))
    torch.testing.assert_close(found, torch.tensor(true).double(), rtol=0.1, atol=2e-3)


@pytest.mark.physics
def test_none_is_found_where_the_reference_is_nominal():
    """Schwarz's criterion errs in 0.1 % of detectors of 300 pixels (χ² of 2 degrees over 11.4)."""
    wrong = [
        reference_scatter(*estimates([[0.0, 0.0], [0.0, 0.13]], 300, seed)) for seed in range(300)
    ]
    assert sum(found is not None for found in wrong) <= 3


def test_a_scatter_that_follows_the_next_threshold_needs_fewer_pixels():
    assert reference_scatter(*estimates([[0.01, 0.035], [0.035, 0.13]], 100)) is not None
    assert reference_scatter(*estimates([[0.01, 0.0], [0.0, 0.13]], 100)) is None


def test_few_pixels_tell_nothing():
    found, covariance = estimates([[4.0, 0.0], [0.0, 4.0]], FEWEST_PIXELS - 1)
    assert reference_scatter(found, covariance) is None


def test_pixels_that_are_not_determined_are_left_out():
    found, covariance = estimates([[0.04, 0.06], [0.06, 0.13]], 2000)
    found[5], covariance = torch.nan, covariance.clone()
    covariance[7] = torch.nan
    assert reference_scatter(found, covariance).isfinite().all()
