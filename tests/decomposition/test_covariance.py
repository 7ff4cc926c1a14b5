"""The covariance of line integrals: Jacobians against finite differences, noise against draws."""

import pytest
import torch
from support.plates import water_iodine_scanner
from support.scanners import scanner

from pcctlearn.decomposition.image_domain import ImageDomain
from pcctlearn.decomposition.linearised import LinearisedDecomposition
from pcctlearn.decomposition.lookup import LookupDecomposition
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.decomposition.polynomial import PolynomialDecomposition
from pcctlearn.physics.noise import draw_counts
from pcctlearn.shapes import channels_first, channels_last

BOX = {"water": [-5.0, 60.0], "calcium": [0.3, 15.5]}
DECOMPOSITIONS = {
    "maximum likelihood": lambda: MaximumLikelihood(scanner(every=4)),
    "in a box": lambda: MaximumLikelihood(scanner(every=4), bounds_g_cm2=BOX),
    "spectra of each pixel": lambda: MaximumLikelihood(scanner(every=4, n_pixels=5)),
    "polynomial": lambda: PolynomialDecomposition(scanner(every=4)),
    "linearised": lambda: LinearisedDecomposition(scanner(every=4)),
    "lookup": lambda: LookupDecomposition(scanner(every=4), {"water": 30.0, "calcium": 4.65}),
    "image domain": lambda: ImageDomain(water_iodine_scanner()),
}


def noisy(model, photons=1.0, seed=0):
    """Noisy counts (1, bin, view, pixel) behind water and some of the other material."""
    generator = torch.Generator().manual_seed(seed)
    second = 0.02 if "iodine" in model.materials else 0.5
    rays = torch.rand(1, 3, 5, 2, generator=generator) * torch.tensor([15.0, second])
    rays = rays + torch.tensor([2.0, 0.0])
    return channels_first(draw_counts(photons * model(rays).detach(), generator))


@pytest.mark.parametrize("name", DECOMPOSITIONS)
@torch.no_grad()
def test_the_jacobian_is_that_of_finite_differences(name):
    decompose = DECOMPOSITIONS[name]()
    counts = noisy(decompose.model)
    x, converged = decompose(counts)
    assert converged.all()
    if name == "in a box":
        on_limit = x[:, 1] <= BOX["calcium"][0]
        assert on_limit.any()
        assert not on_limit.all()
    columns = []
    for b in range(counts.shape[1]):
        h = torch.zeros_like(counts)
        h[:, b] = 1e-4 * counts[:, b]
        change = decompose(counts + h).x - decompose(counts - h).x
        columns.append(channels_last(change) / (2 * h[:, b, ..., None]))
    wanted = torch.stack(columns, -1)
    for known in (None, x):
        found = decompose.count_jacobian(counts, known)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_one_derivative_for_both_ways():
    """The closed form of the maximum likelihood is what autograd of the base class gives."""
    decompose = DECOMPOSITIONS["in a box"]()
    counts = noisy(decompose.model)
    by_autograd = super(MaximumLikelihood, decompose).count_jacobian(counts)
    torch.testing.assert_close(decompose.count_jacobian(counts), by_autograd, rtol=1e-6, atol=1e-12)


def test_correlated_counts_are_carried_as_they_are():
    decompose = DECOMPOSITIONS["maximum likelihood"]()
    counts = noisy(decompose.model)
    J = decompose.count_jacobian(counts)
    root = torch.randn(*J.shape[:-2], 4, 4)
    of_counts = root @ root.mT
    found = decompose.covariance(counts, of_counts)
    torch.testing.assert_close(found, J @ of_counts @ J.mT)
    poisson = torch.diag_embed(channels_last(counts))
    torch.testing.assert_close(decompose.covariance(counts), decompose.covariance(counts, poisson))


@pytest.mark.physics
@pytest.mark.parametrize("gains", [(1.0, 1.0, 1.0, 1.0), (0.5, 1.5, 1.0, 2.0)])
def test_it_is_the_covariance_of_repeated_draws(gains):
    """20 000 draws of a ray, as photons and as counts whose gain differs between the bins."""
    model = scanner(photons=1e5, every=4)
    decompose = MaximumLikelihood(model)
    gain = torch.tensor(gains)[:, None, None]
    expected = channels_first(model(torch.tensor([12.0, 0.4]).expand(1, 20_000, 1, 2)).detach())
    counts = gain * draw_counts(expected / gain, torch.Generator().manual_seed(3))
    x = decompose(counts).x
    sampled = x[0, :, :, 0].cov()
    of_counts = torch.diag_embed(channels_last(gain * counts))
    predicted = decompose.covariance(counts, of_counts, x).mean((0, 1, 2))
    # relative standard error of a variance from 20 000 draws: 1 %
    torch.testing.assert_close(predicted, sampled, rtol=0.04, atol=0)
