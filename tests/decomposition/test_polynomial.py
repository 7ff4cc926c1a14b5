"""The polynomial start is near the truth where counts are many, and inside its range always."""

import pytest
import torch
from scanners import FOUR_BINS, SIX_BINS, scanner

from pcctlearn.decomposition.polynomial import PolynomialDecomposition

SCANNERS = {
    "water": (["water"], [15.0, 50.0, 120.0], [20.0]),
    "water and calcium": (["water", "calcium"], FOUR_BINS, [15.0, 1.5]),
    "three": (["water", "iodine", "gadolinium"], SIX_BINS, [15.0, 0.1, 0.1]),
}


def fitted(name, degree=2):
    materials, edges_keV, full = SCANNERS[name]
    model = scanner(materials, edges_keV, every=4)
    polynomial = PolynomialDecomposition(model.spectra(), model.attenuation, degree)
    truth = torch.rand(200, len(full), generator=torch.Generator().manual_seed(1))
    truth = truth * torch.tensor(full)
    return polynomial, model(truth).detach(), truth


@pytest.mark.parametrize(
    ("name", "close"),  # g/cm² of water; measured 0.008, 0.12 and 0.8
    [("water", 0.01), ("water and calcium", 0.15), ("three", 1.5)],
)
def test_near_the_truth(name, close):
    polynomial, counts, truth = fitted(name)
    assert (polynomial(counts) - truth)[:, 0].abs().max() < close


@pytest.mark.parametrize("name", ["water", "three"])
def test_beam_hardening_wants_more_than_a_straight_line(name):
    errors = []
    for degree in (1, 2):
        polynomial, counts, truth = fitted(name, degree)
        errors.append((polynomial(counts) - truth).norm().item())
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("name", SCANNERS)
def test_nothing_in_the_beam_is_no_line_integral(name):
    polynomial, _, _ = fitted(name)
    air = polynomial.air[None]
    torch.testing.assert_close(
        polynomial(air), torch.zeros(1, len(polynomial.range)), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("name", SCANNERS)
def test_any_counts_give_a_start_within_the_range(name):
    polynomial, counts, _ = fitted(name)
    extremes = torch.cat([0 * counts[:1], 1e12 + counts[:1], torch.rand_like(counts) * 1e5])
    x = polynomial(extremes)
    assert x.isfinite().all()
    assert (x >= 0).all()
    assert (x <= polynomial.range).all()


def test_the_range_lets_a_thousandth_through():
    polynomial, _, _ = fitted("water and calcium")
    model = scanner(every=4)
    for material in range(2):
        far = torch.zeros(2)
        far[material] = polynomial.range[material]
        share = model(far).sum() / model.air().sum()
        assert share.item() == pytest.approx(1e-3, rel=1e-6)


def test_more_photons_are_the_same_start():
    bright, dim = scanner(photons=1e8, every=4), scanner(photons=1e4, every=4)
    counts = dim(torch.tensor([[5.0, 0.3], [1.0, 0.1]]))
    starts = [
        PolynomialDecomposition(model.spectra(), model.attenuation)(n)
        for model, n in ((dim, counts), (bright, 1e4 * counts))
    ]
    torch.testing.assert_close(*starts)
