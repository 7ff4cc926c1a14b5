"""Downhill simplex, Newton's method and Fisher scoring reach the same minimum."""

import torch
from support.objectives import bowl, random_bowls, valley
from support.scanners import scanner

from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.physics.noise import draw_counts
from pcctlearn.solvers.nelder_mead import NelderMead
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds


def test_all_solvers_reach_the_same_minimum_of_noisy_counts():
    model, generator = scanner(photons=2e4, every=4), torch.Generator().manual_seed(1)
    spectra, attenuation = model.spectra().detach(), model.attenuation
    truth = torch.rand(30, 2, generator=generator) * torch.tensor([15.0, 1.5])
    counts = draw_counts(model(truth).detach(), generator)

    def objective(x, *, exact=True):
        return poisson_likelihood(x, counts, spectra, attenuation, exact=exact)

    newton, scoring, simplex = (
        solver(objective, truth + 0.3)
        for solver in (DampedNewton(), DampedNewton(exact=False), NelderMead())
    )
    assert all(solution.converged.all() for solution in (newton, scoring, simplex))
    assert (newton.x - truth).abs().max() > 0.1  # the noise has moved it
    torch.testing.assert_close(scoring.x, newton.x, rtol=0, atol=1e-4)
    torch.testing.assert_close(simplex.x, newton.x, rtol=0, atol=1e-3)


def test_a_quadratic_in_each_dimension():
    for n_unknowns in (1, 2, 3):
        matrix, center = random_bowls(10, n_unknowns)
        x, converged = NelderMead()(bowl(matrix, center), torch.zeros(10, n_unknowns))
        assert converged.all()
        torch.testing.assert_close(x, center, rtol=0, atol=1e-4)


def test_a_curved_valley():
    x, converged = NelderMead()(valley, torch.tensor([[-1.2, 1.0]]))
    assert converged.all()
    torch.testing.assert_close(x, torch.ones(1, 2), rtol=0, atol=1e-4)


def test_the_box_is_kept():
    matrix, center = torch.eye(2), torch.tensor([[3.0, 0.2], [0.1, -4.0], [0.3, 0.4]])
    box = Bounds(torch.full((2,), -1.0), torch.full((2,), 1.0))
    x, converged = NelderMead()(bowl(matrix, center), torch.zeros(3, 2), bounds=box)
    assert converged.all()
    torch.testing.assert_close(x, center.clamp(-1, 1), rtol=0, atol=1e-4)


def test_unsolved_rays_are_marked():
    matrix, center = random_bowls(3, 2)
    center[1] = torch.nan
    start = torch.ones(3, 2)
    x, converged = NelderMead()(bowl(matrix, center), start)
    assert converged.tolist() == [True, False, True]
    assert x.isfinite().all()
    few = NelderMead(max_steps=3)(bowl(*random_bowls(3, 2)), start)
    assert not few.converged.any()
