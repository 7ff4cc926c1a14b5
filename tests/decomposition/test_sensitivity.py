"""Derivatives of the decomposition, Fisher information and Cramér–Rao bound."""

import pytest
import torch
from support.scanners import FOUR_BINS, SIX_BINS, scanner

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.sensitivity import (
    correlated_bound,
    count_jacobian,
    cramer_rao_bound,
    fisher_information,
    minimum_tangents,
    poisson_estimate_covariance,
    spectra_tangent,
)
from pcctlearn.physics.noise import draw_counts

SCANNERS = {
    1: (["water"], [15.0, 50.0, 120.0], [8.0]),
    2: (["water", "calcium"], FOUR_BINS, [8.0, 0.5]),
    3: (["water", "iodine", "gadolinium"], SIX_BINS, [8.0, 0.03, 0.04]),
}
EVERY_KIND = pytest.mark.parametrize(
    ("n_materials", "n_pixels"), [(1, None), (2, None), (3, None), (2, 4)]
)


def problem(n_materials, n_pixels, photons=1e6):
    materials, edges_keV, center = SCANNERS[n_materials]
    model = scanner(materials, edges_keV, photons, every=4, n_pixels=n_pixels)
    generator = torch.Generator().manual_seed(1)
    truth = torch.tensor(center) * (0.5 + torch.rand(3, 4, n_materials, generator=generator))
    counts = draw_counts(model(truth).detach(), generator)
    return model, counts, model.spectra().detach(), model.attenuation, truth


@EVERY_KIND
def test_spectra_tangent_is_the_central_difference(n_materials, n_pixels):
    _, counts, spectra, attenuation, truth = problem(n_materials, n_pixels)
    direction = spectra * torch.rand(spectra.shape, generator=torch.Generator().manual_seed(2))
    x = decompose(counts, spectra, attenuation, start=truth).x
    h = 1e-4
    ahead, behind = (
        decompose(counts, spectra + side * direction, attenuation, start=truth).x
        for side in (h, -h)
    )
    difference = (ahead - behind) / (2 * h)
    assert difference.abs().max() > 1e-2
    tangent = spectra_tangent(x, counts, spectra, attenuation, direction)
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-5)


@EVERY_KIND
def test_fisher_information_is_the_slopes_over_the_mean(n_materials, n_pixels):
    model, _, spectra, attenuation, truth = problem(n_materials, n_pixels)
    h = 1e-5
    slopes = torch.stack(
        [
            (model(truth + d) - model(truth - d)).detach() / (2 * h)
            for d in h * torch.eye(n_materials)
        ],
        -1,
    )
    expected = slopes.mT @ (slopes / model(truth).detach()[..., None])
    torch.testing.assert_close(
        fisher_information(truth, spectra, attenuation), expected, rtol=1e-6, atol=1e-6
    )


@EVERY_KIND
def test_cramer_rao_bound_is_its_inverse(n_materials, n_pixels):
    _, _, spectra, attenuation, truth = problem(n_materials, n_pixels)
    product = fisher_information(truth, spectra, attenuation) @ cramer_rao_bound(
        truth, spectra, attenuation
    )
    torch.testing.assert_close(product, torch.eye(n_materials).expand_as(product))


def test_the_bound_is_inversely_proportional_to_the_photons():
    bounds = []
    for photons in (1e5, 4e5):
        _, _, spectra, attenuation, truth = problem(2, None, photons)
        bounds.append(cramer_rao_bound(truth, spectra, attenuation))
    torch.testing.assert_close(bounds[0], 4 * bounds[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_ray_without_photons_has_zero_information_and_an_infinite_bound(dtype):
    model = scanner(every=4)
    spectra, attenuation = model.spectra().detach().to(dtype), model.attenuation.to(dtype)
    rays = torch.tensor([[10.0, 0.5], [1e5, 0.0]], dtype=dtype)
    information = fisher_information(rays, spectra, attenuation)
    assert (information[1] == 0).all()
    bound = cramer_rao_bound(rays, spectra, attenuation)
    assert (bound[1] == torch.inf).all()
    torch.testing.assert_close(bound[0], cramer_rao_bound(rays[:1], spectra, attenuation)[0])


def test_the_bound_of_two_materials_with_one_bin_is_infinite():
    _, _, spectra, attenuation, truth = problem(2, None)
    one_bin = spectra * torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None]
    assert (cramer_rao_bound(truth, one_bin, attenuation) == torch.inf).all()


@pytest.mark.parametrize("n_materials", SCANNERS)
@pytest.mark.parametrize("photons", [1e7, 1e4])
def test_count_jacobian_is_the_gradient_of_the_decomposition(n_materials, photons):
    _, counts, spectra, attenuation, truth = problem(n_materials, None, photons)
    n = counts.requires_grad_()
    x, converged = decompose(n, spectra, attenuation, start=truth)
    assert converged.all()
    rows = [torch.autograd.grad(one.sum(), n, retain_graph=True)[0] for one in x.unbind(-1)]
    found = count_jacobian(x.detach(), counts.detach(), spectra, attenuation)
    torch.testing.assert_close(found, torch.stack(rows, -2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("n_materials", [1, 2, 3])
def test_many_tangents_are_those_of_single_changes(n_materials):
    """Of spectra one by one, of counts by their Jacobian, and of the expected counts."""
    materials, edges_keV, center = SCANNERS[n_materials]
    model = scanner(materials, edges_keV, 1e6, every=4, n_pixels=4)
    generator = torch.Generator().manual_seed(2)
    A = torch.tensor(center) * (0.5 + torch.rand(3, 4, n_materials, generator=generator))
    spectra, mu = model.spectra().detach(), model.attenuation
    mean = torch.einsum("vpe,pbe->vpb", torch.exp(-A @ mu), spectra)
    counts = draw_counts(mean, generator)
    x = decompose(counts, spectra, mu).x
    directions = torch.stack([spectra * torch.rand(spectra.shape, generator=generator)] * 2, 1)
    directions[:, 1] *= -0.5
    change = 0.01 * counts
    found = minimum_tangents(x, counts, spectra, mu, directions, [change])
    for k in range(2):
        wanted = spectra_tangent(x, counts, spectra, mu, directions[:, k])
        torch.testing.assert_close(found.area[:, :, k], wanted, rtol=1e-6, atol=1e-9)
    moved = decompose(counts + change, spectra, mu).x - decompose(counts - change, spectra, mu).x
    torch.testing.assert_close(found.area[:, :, 2], moved / 2, rtol=2e-3, atol=2e-4)
    step = 1e-5
    for k in range(2):
        ends = [
            torch.einsum(
                "vpe,pbe->vpb",
                torch.exp(-(x + sign * step * found.area[:, :, k]) @ mu),
                spectra + sign * step * directions[:, k],
            )
            for sign in (1, -1)
        ]
        torch.testing.assert_close(
            found.counts[:, :, k], (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-2
        )


@EVERY_KIND
def test_bounds_of_correlated_counts(n_materials, n_pixels):
    """Poisson counts give the Cramér–Rao bound; the weighted estimate is never worse."""
    model, _, spectra, attenuation, truth = problem(n_materials, n_pixels)
    mean = model(truth).detach()
    bound = cramer_rao_bound(truth, spectra, attenuation)
    poisson = torch.diag_embed(mean)
    for found in (poisson_estimate_covariance, correlated_bound):
        torch.testing.assert_close(found(truth, spectra, attenuation, poisson), bound)
    root = torch.randn(*mean.shape, mean.shape[-1], generator=torch.Generator().manual_seed(4))
    correlated = poisson + 0.3 * mean.mean() * root @ root.mT
    best = correlated_bound(truth, spectra, attenuation, correlated)
    usual = poisson_estimate_covariance(truth, spectra, attenuation, correlated)
    assert (torch.linalg.eigvalsh(usual - best) > -1e-9 * usual.abs().amax()).all()
    assert (best.diagonal(dim1=-2, dim2=-1) < 0.999 * usual.diagonal(dim1=-2, dim2=-1)).any()
