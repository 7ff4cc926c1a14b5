"""Pixels at the limit of a counter are flagged by their equal counts, and chance is not."""

import pytest
import torch
from support.plates import flawed, plates_of

from pcctlearn.calibration.saturated import at_limit, with_saturated

EXPOSURES, PIXELS = 5, 896


def drawn(counts, gain_sd, seed):
    """Poisson counts of pixels with different gains behind plates."""
    generator = torch.Generator().manual_seed(seed)
    gain = 1 + gain_sd * torch.randn(PIXELS, generator=generator, dtype=torch.float64)
    plates = torch.tensor([1.0, 0.7, 0.5, 0.35, 0.25], dtype=torch.float64)
    return torch.poisson(counts * plates[:, None] * gain, generator=generator)


@pytest.mark.parametrize("n_pixels", [2, 5, 60])
@pytest.mark.parametrize("share", [0.002, 0.005, 0.05])
def test_pixels_that_share_a_limit_are_flagged(n_pixels, share):
    """Their counts are less than their share too low, far below what a fit can tell."""
    counts = drawn(3e7, 0.01, seed=1)
    brightest = counts[0].argsort()[-n_pixels:]
    counts[0] = counts[0].clamp(max=counts[0, brightest[0]] * (1 - share / 100))
    found = at_limit(counts)
    assert found[brightest].all()
    assert found.sum() <= n_pixels + 5


@pytest.mark.parametrize("counts", [5.0, 50.0, 1e3, 1e5, 1e8])
@pytest.mark.parametrize("gain_sd", [0.0, 0.01])
def test_chance_is_not_taken_for_a_limit(counts, gain_sd):
    wrong = sum(bool(at_limit(drawn(counts, gain_sd, seed)).any()) for seed in range(100))
    assert wrong <= 2


@pytest.mark.parametrize("step", [1000.0, 0.37])
def test_steps_of_stored_counts_are_not_taken_for_a_limit(step):
    """Rounded to thousands, and photons times a factor."""
    wrong = 0
    for seed in range(100):
        counts = drawn(3e5, 0.0, seed)
        counts = (counts / step).round() * step if step > 1 else counts * step
        wrong += bool(at_limit(counts).any())
    assert wrong <= 2


def test_the_pixels_are_added_to_those_marked():
    plates = plates_of(flawed(n_pixels=100), 1e8, seed=3)
    counts = plates.counts
    limit = counts[0, :, 0].sort().values[-3]
    counts[..., 0] = counts[..., 0].clamp(max=limit)
    clipped = (counts[0, :, 0] == limit).nonzero().flatten().tolist()
    known = torch.zeros(100, dtype=torch.bool)
    known[7] = True
    found = with_saturated(counts, {"saturated": known}, plates.thresholds_keV)["saturated"]
    assert found.nonzero().flatten().tolist() == sorted({7, *clipped})
    assert len(clipped) == 3
    assert with_saturated(counts, {}, plates.thresholds_keV, noise_free=True) == {}


def test_equal_pixels_without_noise_are_not_flagged():
    counts = torch.tensor([[1e6] * 20, [5e5] * 20], dtype=torch.float64)
    assert not at_limit(counts).any()
    assert not at_limit(torch.zeros(2, 20)).any()


def test_more_than_a_tenth_of_the_pixels_are_refused():
    plates = plates_of(flawed(n_pixels=100), 1e8, seed=3)
    counts = plates.counts
    counts[..., 1] = counts[..., 1].clamp(max=counts[0, :, 1].quantile(0.5))
    with pytest.raises(ValueError, match="above 60 keV are saturated: 50 of 100"):
        with_saturated(counts, {}, plates.thresholds_keV)
