"""Derivatives of the likelihood agree with autograd and are finite."""

import pytest
import torch
from support.scanners import FOUR_BINS, SIX_BINS, scanner

from pcctlearn.decomposition.sensitivity import fisher_information
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.physics.noise import draw_counts

TRUTH = {"water": 15.0, "calcium": 0.7, "iodine": 0.03, "gadolinium": 0.02}
SCANNERS = {
    1: (["water"], [15.0, 50.0, 120.0]),
    2: (["water", "calcium"], FOUR_BINS),
    3: (["water", "iodine", "gadolinium"], SIX_BINS),
}


def problem(n_materials, pixels, photons=1e4):
    """Noisy counts of eleven rays, a point A away from their minimum, and the scanner."""
    materials, edges_keV = SCANNERS[n_materials]
    generator = torch.Generator().manual_seed(1)
    model = scanner(materials, edges_keV, photons, n_pixels=pixels)
    shape = (11,) if pixels is None else (pixels, 11)
    if pixels is not None:
        edges = model.thresholds.edges_keV.detach()
        model.thresholds.assign(edges + torch.rand(pixels, 1, generator=generator))
    spectra = model.spectra().detach()
    truth = torch.tensor([TRUTH[m] for m in materials])
    A = truth * (0.5 + torch.rand(*shape, n_materials, generator=generator))
    mean = torch.einsum("...re,...be->...rb", torch.exp(-A @ model.attenuation), spectra)
    counts = draw_counts(mean, generator)
    return 0.9 * A, counts, mean, spectra, model.attenuation


EVERY_KIND = pytest.mark.parametrize("pixels", [None, 3], ids=["shared", "per pixel"])
EVERY_SIZE = pytest.mark.parametrize("n_materials", [1, 2, 3])


@EVERY_SIZE
@EVERY_KIND
def test_derivatives_are_those_of_the_value(n_materials, pixels):
    A, counts, _, spectra, attenuation = problem(n_materials, pixels)

    def total(A):
        return poisson_likelihood(A, counts, spectra, attenuation).value.sum()

    gradient = torch.func.grad(total)
    result = poisson_likelihood(A, counts, spectra, attenuation)
    torch.testing.assert_close(result.gradient, gradient(A))
    for k, column in enumerate(result.hessian.unbind(-1)):  # rays are independent
        torch.testing.assert_close(
            column, torch.func.grad(lambda A, k=k: gradient(A)[..., k].sum())(A)
        )


@EVERY_SIZE
@EVERY_KIND
def test_expected_hessian_is_the_fisher_matrix(n_materials, pixels):
    A, counts, mean, spectra, attenuation = problem(n_materials, pixels)
    at_truth = A / 0.9
    own = spectra if pixels is None else spectra[:, None]
    fisher = fisher_information(at_truth, own, attenuation)
    expected = poisson_likelihood(at_truth, counts, spectra, attenuation, exact=False)
    torch.testing.assert_close(expected.hessian, fisher)
    # the exact Hessian is linear in the counts: its expectation is its value at their mean
    exact = poisson_likelihood(at_truth, mean, spectra, attenuation)
    torch.testing.assert_close(exact.hessian, fisher)
    noisy = poisson_likelihood(at_truth, counts, spectra, attenuation)
    assert (noisy.hessian / fisher - 1).abs().max() > 1e-3
    torch.testing.assert_close(expected.value, noisy.value)
    torch.testing.assert_close(expected.gradient, noisy.gradient)


def test_value_is_the_poisson_log_likelihood_up_to_a_constant():
    A, counts, _, spectra, attenuation = problem(2, None)
    points = [A, 1.1 * A]
    values = [poisson_likelihood(x, counts, spectra, attenuation).value for x in points]
    logs = [
        torch.distributions.Poisson(torch.exp(-x @ attenuation) @ spectra.mT)
        .log_prob(counts)
        .sum(-1)
        for x in points
    ]
    torch.testing.assert_close(values[1] - values[0], logs[0] - logs[1])


@EVERY_SIZE
def test_value_is_zero_where_the_mean_equals_the_counts_and_positive_elsewhere(n_materials):
    A, _, mean, spectra, attenuation = problem(n_materials, None)
    least = poisson_likelihood(A / 0.9, mean, spectra, attenuation)
    assert (least.value.abs() <= least.rounding).all()
    assert (least.gradient.abs() <= 1e-9 * mean.sum(-1, keepdim=True)).all()
    assert (poisson_likelihood(A, mean, spectra, attenuation).value > least.rounding).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bins_with_zero_counts_are_finite(dtype):
    A, counts, _, spectra, attenuation = (t.to(dtype) for t in problem(2, None))
    counts[0] = 0
    counts[1, :3] = 0
    result = poisson_likelihood(A, counts, spectra, attenuation)
    for field in result:
        assert field.dtype == dtype
        assert field.isfinite().all()
    # with zero counts, L(A) = Σ_b ȳ_b
    mean = torch.exp(-A[0] @ attenuation) @ spectra.mT
    torch.testing.assert_close(result.value[0], mean.sum())


@pytest.mark.parametrize("water", [100.0, 500.0, 5e3, 1e6])
def test_heavy_attenuation_in_single_precision(water):
    model = scanner()
    spectra, attenuation = model.spectra().detach().float(), model.attenuation.float()
    A = torch.tensor([[water, 0.0], [water, 20.0]]).float()
    counts = torch.tensor([[0.0, 1.0, 2.0, 3.0], [50.0, 0.0, 0.0, 0.0]]).float()
    for exact in (True, False):
        for field in poisson_likelihood(A, counts, spectra, attenuation, exact=exact):
            assert not field.isnan().any()


@EVERY_SIZE
def test_rounding_bounds_the_error_of_single_precision(n_materials):
    A, _, mean, spectra, attenuation = problem(n_materials, None, photons=1e7)
    single = poisson_likelihood(*(t.float() for t in (A / 0.9, mean, spectra, attenuation)))
    assert (single.value.abs() <= 10 * single.rounding).all()
