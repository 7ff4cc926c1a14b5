"""Counts are Poisson distributed and reproducible."""

import torch

from pcctlearn.physics.noise import draw_counts


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
