"""Counts are Poisson distributed and reproducible."""

import pytest
import torch

from pcctlearn.physics.noise import draw_correlated, draw_counts


def test_mean_and_variance_are_the_expected_counts():
    expected = torch.tensor([0.3, 5.0, 2e3])
    n_draws = 200_000
    counts = draw_counts(expected.expand(n_draws, -1), torch.Generator().manual_seed(1))
    standard_error = (expected / n_draws).sqrt()
    assert ((counts.mean(0) - expected).abs() < 4 * standard_error).all()
    # variance of the sample variance: (μ₄ − σ⁴)/n with μ₄ = λ + 3λ²
    spread = ((expected + 2 * expected**2) / n_draws).sqrt()
    assert ((counts.var(0) - expected).abs() < 4 * spread).all()
    assert (counts == counts.round()).all()


def test_the_same_seed_gives_the_same_counts():
    expected = torch.full((50, 3), 100.0)
    one, same, other = (
        draw_counts(expected, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_an_expectation_of_zero_gives_zero_counts():
    assert (draw_counts(torch.zeros(4)) == 0).all()


def test_correlated_counts_have_the_mean_and_the_covariance():
    """Photons counted once or twice; in the first bin also three times."""
    expected = torch.tensor([40.0, 30.0, 20.0])
    together = torch.tensor([[36.0, 6.0, 2.0], [6.0, 8.0, 0.0], [2.0, 0.0, 0.0]])
    n_draws = 200_000
    counts = draw_correlated(
        expected.expand(n_draws, -1),
        together.expand(n_draws, -1, -1),
        torch.Generator().manual_seed(1),
    )
    wanted = torch.diag(expected) + together
    standard_error = (wanted.diagonal() / n_draws).sqrt()
    assert ((counts.mean(0) - expected).abs() < 4 * standard_error).all()
    sd = wanted.diagonal().sqrt()
    error = (counts.mT.cov() - wanted) / (sd * sd[:, None])
    assert error.abs().max() < 0.02
    assert (counts == counts.round()).all()
    assert counts.min() >= 0


def test_without_pairs_the_counts_are_poisson():
    expected = torch.full((1000, 2), 3.0)
    nothing = torch.zeros(1000, 2, 2)
    counts = draw_correlated(expected, nothing, torch.Generator().manual_seed(3))
    assert counts.mean().item() == pytest.approx(3, abs=0.2)
    assert counts.var().item() == pytest.approx(3, abs=0.3)


def test_pairs_of_another_response_are_refused():
    with pytest.raises(ValueError, match=r"_pairs\.npz"):
        draw_correlated(torch.ones(1), torch.full((1, 1), 3.0))
