"""Differentiated Newton steps give the derivative of the minimum."""

import pytest
import torch
from support.objectives import bowl, random_bowls
from support.scanners import scanner

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.physics.noise import draw_counts
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds, Quadratic
from pcctlearn.solvers.unrolled import UnrolledNewton


@pytest.mark.parametrize("pixels", [None, 3])
def test_enough_steps_have_the_gradient_of_the_minimum(pixels):
    model, generator = scanner(every=4, n_pixels=pixels), torch.Generator().manual_seed(1)
    truth = torch.tensor([10.0, 0.7]) * (0.5 + torch.rand(4, 3, 2, generator=generator))
    counts = draw_counts(model(truth).detach(), generator)
    cotangent = torch.rand(truth.shape, generator=generator)
    gradients = []
    for solver, adjoint in ((UnrolledNewton(steps=12), "unrolled"), (None, "implicit")):
        theta = [
            t.detach().clone().requires_grad_()
            for t in (counts, model.spectra(), model.attenuation)
        ]
        x, converged = decompose(*theta, solver=solver, adjoint=adjoint, start=truth)
        assert converged.all()
        gradients.append(torch.autograd.grad(x, theta, cotangent))
    for unrolled, implicit in zip(*gradients, strict=True):
        torch.testing.assert_close(
            unrolled, implicit, rtol=1e-6, atol=1e-9 * implicit.abs().max().item()
        )


def test_a_quadratic_takes_one_step():
    matrix, center = random_bowls(10, 3)
    x, converged = UnrolledNewton(steps=2)(bowl(matrix, center), torch.zeros(10, 3))
    assert converged.all()
    torch.testing.assert_close(x, center)


def test_the_box_is_kept_by_projection():
    center = torch.tensor([[3.0, 0.2]])
    box = Bounds(torch.full((2,), -1.0), torch.full((2,), 1.0))
    x, _ = UnrolledNewton(steps=3)(bowl(torch.eye(2), center), torch.zeros(1, 2), bounds=box)
    assert x.tolist() == [[1.0, 0.2]]


def test_too_few_steps_are_marked():
    model = scanner(every=4)
    counts = model(torch.tensor([[10.0, 0.5]])).detach()
    spectra, attenuation = model.spectra().detach(), model.attenuation
    _, converged = decompose(
        counts,
        spectra,
        attenuation,
        solver=UnrolledNewton(steps=1),
        adjoint="unrolled",
        start=torch.zeros(1, 2),
    )
    assert not converged.any()


def test_single_precision_converges():
    model, generator = scanner(every=4), torch.Generator().manual_seed(1)
    truth = torch.tensor([10.0, 0.7]) * (0.5 + torch.rand(50, 2, generator=generator))
    counts = draw_counts(model(truth).detach(), generator).float()
    theta = counts, model.spectra().detach().float(), model.attenuation.float()
    start = truth.float()
    x, converged = decompose(*theta, solver=UnrolledNewton(), adjoint="unrolled", start=start)
    assert converged.all()
    torch.testing.assert_close(x, decompose(*theta, start=start).x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n_unknowns", [2, 3])
def test_active_bounds_converge_like_newton(n_unknowns):
    matrix, center = random_bowls(200, n_unknowns)
    problem, start = bowl(matrix, center), torch.zeros(200, n_unknowns)
    box = Bounds(torch.full((n_unknowns,), -1.0), torch.full((n_unknowns,), 1.0))
    expected, reached = DampedNewton()(problem, start, bounds=box)
    x, converged = UnrolledNewton(steps=12)(problem, start, bounds=box)
    assert reached.all()
    assert ((expected.abs() == 1).any(-1)).sum() > 100
    assert converged.double().mean() > 0.9
    torch.testing.assert_close(x[converged], expected[converged])


def test_active_bounds_have_the_gradient_of_the_minimum():
    model = scanner(every=4)
    counts = model(torch.tensor([[10.0, 0.0]])).detach() * torch.tensor([0.97, 1, 1, 1])
    gradients = []
    for solver, adjoint in ((UnrolledNewton(steps=12), "unrolled"), (None, "implicit")):
        n = counts.clone().requires_grad_()
        box = [[-5.0, 0.2], [60.0, 15.0]]
        x, converged = decompose(
            n,
            model.spectra().detach(),
            model.attenuation,
            solver=solver,
            adjoint=adjoint,
            bounds=box,
        )
        assert converged.all()
        assert x[0, 1] == 0.2
        gradients.append(torch.autograd.grad(x.sum(), n)[0])
    torch.testing.assert_close(*gradients)


def saddle_for_the_first(theta):
    """Ray 0 has an indefinite Hessian and ray 1 overflows after one step; the others are bowls."""

    def evaluate(x, *, exact=True):
        curvature = torch.ones_like(x)
        curvature[0] = torch.tensor([1.0, -1.0])
        gradient = curvature * (x - theta)
        far = (x[..., 0].abs() > 0) & (torch.arange(len(x)) == 1)
        steep = torch.exp(1e3 * torch.where(far[:, None], x.abs() + theta, 0))
        gradient = torch.where(far[:, None], steep, gradient)
        value = 0.5 * ((x - theta) * gradient).sum(-1)
        return Quadratic(value, gradient, torch.diag_embed(curvature), 1e-15 * value.abs())

    return evaluate


def test_a_ray_without_a_minimum_does_not_affect_its_batch():
    theta = torch.tensor([2.0, 3.0], requires_grad=True)
    x, converged = UnrolledNewton()(saddle_for_the_first(theta), torch.zeros(4, 2))
    assert converged.tolist() == [False, False, True, True]
    assert x.isfinite().all()
    (gradient,) = torch.autograd.grad(x.sum(), theta)
    assert gradient.tolist() == [2.0, 2.0]
