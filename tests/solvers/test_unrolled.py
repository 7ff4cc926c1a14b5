"""Newton's steps differentiated one by one end at the derivative of the minimum."""

import pytest
import torch
from objectives import bowl, random_bowls
from scanners import scanner

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.physics.noise import draw_counts
from pcctlearn.solvers.quadratic import Bounds
from pcctlearn.solvers.unrolled import UnrolledNewton


@pytest.mark.parametrize("pixels", [None, 3])
def test_enough_steps_have_the_gradient_of_the_minimum(pixels):
    model, generator = scanner(every=4, n_pixels=pixels), torch.Generator().manual_seed(1)
    truth = torch.tensor([10.0, 0.7]) * (0.5 + torch.rand(4, 3, 2, generator=generator))
    counts = draw_counts(model(truth).detach(), generator)
    cotangent = torch.rand(truth.shape, generator=generator)
    gradients = []
    for solver in (UnrolledNewton(steps=12), None):
        theta = [
            t.detach().clone().requires_grad_()
            for t in (counts, model.spectra(), model.attenuation)
        ]
        x, converged = decompose(*theta, solver=solver, start=truth)
        assert converged.all()
        gradients.append(torch.autograd.grad(x, theta, cotangent))
    for unrolled, implicit in zip(*gradients, strict=True):
        torch.testing.assert_close(
            unrolled, implicit, rtol=1e-6, atol=1e-9 * implicit.abs().max().item()
        )


def test_a_quadratic_takes_one_step():
    matrix, centre = random_bowls(10, 3)
    x, converged = UnrolledNewton(steps=2)(bowl(matrix, centre), torch.zeros(10, 3))
    assert converged.all()
    torch.testing.assert_close(x, centre)


def test_the_box_is_kept_by_projection():
    centre = torch.tensor([[3.0, 0.2]])
    box = Bounds(torch.full((2,), -1.0), torch.full((2,), 1.0))
    x, _ = UnrolledNewton(steps=3)(bowl(torch.eye(2), centre), torch.zeros(1, 2), box)
    assert x.tolist() == [[1.0, 0.2]]


def test_too_few_steps_are_marked():
    model = scanner(every=4)
    counts = model(torch.tensor([[10.0, 0.5]])).detach()
    spectra, attenuation = model.spectra().detach(), model.attenuation
    _, converged = decompose(
        counts, spectra, attenuation, solver=UnrolledNewton(steps=1), start=torch.zeros(1, 2)
    )
    assert not converged.any()
