"""The Sobolev loss: its targets are the derivatives of the exact layer, and it penalises both."""

import pytest
import torch
from support.scanners import scanner

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.losses.sobolev import SobolevLoss, jacobian_of, relative_errors, sobolev_target
from pcctlearn.physics.noise import draw_counts
from pcctlearn.shapes import channels_first

TOLERANCE = {"water": 0.01, "calcium": 0.002}


def problem(photons=1e5):
    """Spectra, attenuation and noisy counts of a scanner."""
    model = scanner(photons=photons, every=4).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    A = torch.rand(40, 2, generator=generator) * torch.tensor([15.0, 1.0])
    counts = draw_counts(model(A.double()), generator)
    return model, counts, model.spectra(), model.attenuation


@pytest.mark.parametrize("photons", [1e7, 1e4])
def test_the_target_is_autograd_through_the_exact_layer(photons):
    model, counts, spectra, attenuation = problem(photons)
    target, kept = sobolev_target(counts, spectra, attenuation)
    assert kept.all()
    layer, air = MaximumLikelihood(model), model.air()

    def exact(p):
        n = air * torch.exp(-p)
        return layer(channels_first(n[None, None])).x[0, :, 0].T

    A, jacobian = jacobian_of(exact, target.log_counts)
    torch.testing.assert_close(target.line_integrals, A, rtol=0, atol=2e-4)
    torch.testing.assert_close(target.jacobian, jacobian, rtol=2e-4, atol=2e-4)


def test_few_photons_tell_the_hessian_from_the_fisher_matrix():
    _, counts, spectra, attenuation = problem(1e4)
    target, _ = sobolev_target(counts, spectra, attenuation)
    expected = torch.exp(-target.line_integrals @ attenuation) @ spectra.T
    fisher, _ = sobolev_target(expected, spectra, attenuation)
    assert relative_errors(fisher.jacobian, target.jacobian).median() > 0.01


def test_rays_without_a_solution_or_with_an_empty_bin_are_left_out():
    _, counts, spectra, attenuation = problem()
    counts[3] = 0
    counts[5, 1] = 0
    target, kept = sobolev_target(counts, spectra, attenuation)
    assert (~kept).nonzero().flatten().tolist() == [3, 5]
    assert len(target.log_counts) == len(target.jacobian) == 38


def test_the_loss_of_the_exact_linear_function_is_zero_and_grows_with_both_errors():
    _, counts, spectra, attenuation = problem()
    target, _ = sobolev_target(counts, spectra, attenuation)
    matrix = torch.randn(4, 2, generator=torch.Generator().manual_seed(2)).double()
    linear = target._replace(
        line_integrals=target.log_counts @ matrix,
        jacobian=matrix.T.expand_as(target.jacobian),
    )
    loss = SobolevLoss(TOLERANCE, jacobian_tolerance=0.05)
    exact = loss(lambda p: p @ matrix, linear)
    assert {k: round(float(v), 9) for k, v in exact.items()} == {"values": 0.0, "jacobian": 0.0}
    # one tolerance off in each material
    off = loss(lambda p: p @ matrix + torch.tensor([0.01, 0.002]).double(), linear)
    assert float(off["values"]) == pytest.approx(2.0)
    assert float(off["jacobian"]) == pytest.approx(0.0, abs=1e-9)
    steep = loss(lambda p: 1.05 * p @ matrix, linear)
    assert float(steep["jacobian"]) == pytest.approx(2.0)
    assert set(SobolevLoss(TOLERANCE, None)(lambda p: p @ matrix, linear)) == {"values"}


def test_the_loss_of_the_jacobian_has_a_gradient_and_works_in_inference_mode():
    _, counts, spectra, attenuation = problem()
    target, _ = sobolev_target(counts, spectra, attenuation)
    layer = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 2))
    layer.double()
    loss = SobolevLoss(TOLERANCE)
    terms = loss(layer, target)
    (slope,) = torch.autograd.grad(terms["jacobian"], layer[0].weight)
    h = 1e-6
    with torch.no_grad():
        layer[0].weight[2, 1] += h
        ahead = loss(layer, target)["jacobian"]
        layer[0].weight[2, 1] -= 2 * h
        behind = loss(layer, target)["jacobian"]
    assert float(slope[2, 1]) == pytest.approx(float(ahead - behind) / (2 * h), rel=1e-5)
    with torch.inference_mode():
        again = loss(layer, target)
    assert not again["jacobian"].requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_tolerance_g_cm2": {"water": 0.0}}, "value_tolerance_g_cm2.water .* 0.0"),
        ({"value_tolerance_g_cm2": TOLERANCE, "jacobian_tolerance": -1.0}, "-1.0"),
    ],
)
def test_wrong_tolerances_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        SobolevLoss(**options)
