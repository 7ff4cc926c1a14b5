"""Counts are Poisson, and the generator's."""

import torch

from pcctlearn.physics.noise import draw_counts, unscattered


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


def test_the_seed_decides():
    expected = torch.full((50, 3), 100.0)
    one, same, other = (
        draw_counts(expected, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_no_expectation_gives_no_counts():
    assert (draw_counts(torch.zeros(4)) == 0).all()


def test_what_did_not_scatter_is_poisson_and_independent_of_what_did():
    expected, fraction = torch.tensor([5.0, 2e3]), torch.tensor([0.4, 0.1])
    n_draws, generator = 200_000, torch.Generator().manual_seed(2)
    counts = draw_counts(expected.expand(n_draws, -1), generator)
    kept = unscattered(counts, fraction, generator)
    mean = expected * (1 - fraction)
    assert ((kept.mean(0) - mean).abs() < 4 * (mean / n_draws).sqrt()).all()
    spread = ((mean + 2 * mean**2) / n_draws).sqrt()
    assert ((kept.var(0) - mean).abs() < 4 * spread).all()
    gone = counts - kept
    covariance = ((kept - mean) * (gone - expected * fraction)).mean(0)
    assert (covariance.abs() < 4 * (mean * expected * fraction / n_draws).sqrt()).all()


def test_expected_counts_are_thinned_to_their_mean():
    counts = torch.tensor([0.5, 10.0])
    torch.testing.assert_close(
        unscattered(counts, torch.tensor([0.2, 0.1])), torch.tensor([0.4, 9.0])
    )
