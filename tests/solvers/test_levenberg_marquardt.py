"""Many least-squares problems at once reach the minima that scipy finds one by one."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from pcctlearn.solvers.levenberg_marquardt import LevenbergMarquardt, Residuals

TIMES = torch.linspace(0, 4, 12)


def decays(data, weight=1.0):
    """a exp(−b t) fitted to each row of data."""

    def residuals(x):
        a, b = x[:, :1], x[:, 1:]
        shape = torch.exp(-b * TIMES)
        jacobian = torch.stack([shape, -a * TIMES * shape], -1)
        value = weight * (a * shape - data)
        return Residuals(value, weight * jacobian, torch.zeros(len(x)))

    return residuals


def noisy_decays(n, sd):
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(n, 2, generator=generator) * torch.tensor([3.0, 2.0]) + 0.3
    noise = sd * torch.randn(n, len(TIMES), generator=generator)
    return true, true[:, :1] * torch.exp(-true[:, 1:] * TIMES) + noise


def test_exact_data_give_the_truth():
    true, data = noisy_decays(50, 0.0)
    found = LevenbergMarquardt()(decays(data), torch.ones(50, 2))
    assert found.converged.all()
    torch.testing.assert_close(found.x, true, rtol=1e-9, atol=1e-9)


def test_noisy_data_give_the_minima_of_scipy():
    _, data = noisy_decays(20, 0.05)
    found = LevenbergMarquardt()(decays(data), torch.ones(20, 2))
    assert found.converged.all()
    for x, row in zip(found.x, data, strict=True):
        reference = least_squares(
            lambda u, row=row: u[0] * np.exp(-u[1] * TIMES.numpy()) - row.numpy(), x.numpy()
        )
        np.testing.assert_allclose(x, reference.x, rtol=1e-5)


def test_a_problem_does_not_depend_on_its_neighbours():
    _, data = noisy_decays(20, 0.05)
    solver = LevenbergMarquardt()
    together = solver(decays(data), torch.ones(20, 2)).x
    alone = torch.cat([solver(decays(row[None]), torch.ones(1, 2)).x for row in data])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weight", [1e-6, 1.0, 1e6])
def test_the_unit_of_the_residuals_changes_nothing(weight):
    true, data = noisy_decays(5, 0.0)
    found = LevenbergMarquardt(tolerance=1e-9 * weight)(decays(data, weight), torch.ones(5, 2))
    assert found.converged.all()
    torch.testing.assert_close(found.x, true, rtol=1e-6, atol=1e-6)


def test_unknowns_that_nothing_depends_on_do_not_converge():
    def residuals(x):
        jacobian = torch.stack([torch.ones(3, 4), torch.zeros(3, 4)], -1)
        return Residuals(x[:, :1].expand(3, 4) - 1, jacobian, torch.zeros(3))

    found = LevenbergMarquardt()(residuals, torch.zeros(3, 2))
    assert not found.converged.any()
    assert found.x.isfinite().all()


def test_steps_are_no_longer_than_asked():
    _, data = noisy_decays(5, 0.0)
    longest = torch.tensor([0.1, 0.1])
    found = LevenbergMarquardt(max_steps=3)(decays(data), torch.ones(5, 2), longest)
    moved = (found.x - 1).abs()
    assert (moved <= 0.3 + 1e-12).all()
    assert moved.amax() > 0.25
