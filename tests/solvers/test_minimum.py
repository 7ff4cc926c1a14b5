"""Convergence requires a positive definite Hessian, a short step and a small rounding error."""

import pytest
import torch
from support.objectives import bowl, random_bowls

from pcctlearn.solvers.minimum import DISTANCE, last_step
from pcctlearn.solvers.nelder_mead import NelderMead
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds, Quadratic
from pcctlearn.solvers.unrolled import UnrolledNewton

SOLVERS = [DampedNewton(), DampedNewton(exact=False), NelderMead(), UnrolledNewton()]
EVERY_SOLVER = pytest.mark.parametrize(
    "solver", SOLVERS, ids=["newton", "scoring", "simplex", "unrolled"]
)


@pytest.mark.parametrize("n_unknowns", [1, 2, 3])
def test_a_ray_converges_within_the_distance_only(n_unknowns):
    matrix, center = random_bowls(40, n_unknowns)
    direction = torch.nn.functional.normalize(torch.randn(40, n_unknowns), dim=-1)
    largest = direction.abs().amax(-1, keepdim=True)
    for share, expected in ((0.0, True), (0.9, True), (1.1, False), (100.0, False)):
        x = center + share * DISTANCE * direction / largest
        moved, near = last_step(x, bowl(matrix, center)(x))
        assert (near == expected).all()
        torch.testing.assert_close(moved, center if expected else x, rtol=0, atol=1e-12)


def test_a_ray_on_a_limit_converges_only_if_the_descent_leads_out():
    matrix, center = torch.eye(2), torch.tensor([[3.0, 0.2], [0.5, 0.2]])
    box = Bounds(-torch.ones(2), torch.ones(2))
    x = torch.tensor([[1.0, 0.2], [1.0, 0.2]])
    assert last_step(x, bowl(matrix, center)(x), box).converged.tolist() == [True, False]
    inside = torch.tensor([[1 - 1e-6, 0.2], [0.5, 0.2]])
    moved, near = last_step(inside, bowl(matrix, center)(inside), box)
    assert near.all()
    assert moved[0, 0] == 1


@pytest.mark.parametrize(
    ("hessian", "rounding", "expected"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], 1e-12, True),
        ([[1.0, 0.0], [0.0, -1.0]], 1e-12, False),  # a saddle
        ([[1.0, 0.0], [0.0, 0.0]], 1e-12, False),  # a flat valley
        ([[1.0, 1.0], [1.0, 1.0 + 1e-13]], 1e-12, False),  # its inverse is dominated by rounding
        ([[1.0, 0.0], [0.0, 1.0]], 1e9, False),  # rounding moves the minimum
    ],
)
def test_a_zero_gradient_is_not_sufficient(hessian, rounding, expected):
    quadratic = Quadratic(
        torch.zeros(1), torch.zeros(1, 2), torch.tensor([hessian]), torch.tensor([rounding])
    )
    assert last_step(torch.zeros(1, 2), quadratic).converged.item() is expected


@EVERY_SOLVER
def test_no_solver_converges_at_a_saddle_or_on_a_slope(solver):
    curvature = torch.tensor([[1.0, -1.0], [1.0, 0.0], [1.0, 1.0]])

    def objective(x, *, exact=True):
        gradient = curvature * x
        value = 0.5 * (x * gradient).sum(-1)
        hessian = torch.diag_embed(curvature if exact else curvature.abs() + 1e-3)
        return Quadratic(value, gradient, hessian, 1e-15 * (1 + value.detach().abs()))

    _, converged = solver(objective, torch.zeros(3, 2))
    assert converged.tolist() == [False, False, True]


@EVERY_SOLVER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convergence_of_a_ray_is_independent_of_other_rays(solver, dtype):
    """Quartic bowls of all widths and endless slopes, alone and in a batch."""
    scale = (10 ** torch.linspace(-3, 3, 24)).to(dtype)
    center = torch.linspace(-2, 2, 48).reshape(24, 2).to(dtype)
    endless = torch.arange(24) % 5 == 0

    def solve(rays):
        s, c, none = scale[rays], center[rays], endless[rays]

        def objective(x, *, exact=True):
            d = torch.where(none[:, None], torch.ones_like(x), x - c)
            value = s * (d**4 / 4 + d**2 / 2).sum(-1)
            value = torch.where(none, x.sum(-1), value)
            gradient = torch.where(none[:, None], torch.ones_like(x), s[:, None] * (d**3 + d))
            second = torch.where(none[:, None], 0 * x, s[:, None] * (3 * d**2 + 1))
            rounding = torch.finfo(dtype).eps * value.detach().abs()
            return Quadratic(value, gradient, torch.diag_embed(second), rounding)

        return solver(objective, torch.zeros(len(rays), 2, dtype=dtype))

    x, converged = solve(torch.arange(24))
    assert not converged[endless].any()
    order = torch.randperm(24)
    for rays in (order, order[:5], order[:1], torch.arange(1, 5), (~endless).nonzero()[:, 0]):
        again = solve(rays)
        assert torch.equal(again.converged, converged[rays])
        assert torch.equal(again.x, x[rays])
