"""Problems with known minima for the tests of the solvers."""

import torch
from torch import Tensor

from pcctlearn.solvers.quadratic import Objective, Quadratic


def bowl(matrix: Tensor, center: Tensor) -> Objective:
    """½ (x − c)ᵀ M (x − c): one step of Newton's method is enough."""

    def evaluate(x: Tensor, *, exact: bool = True) -> Quadratic:
        gradient = torch.einsum("...ij,...j->...i", matrix, x - center)
        value = 0.5 * ((x - center) * gradient).sum(-1)
        hessian = matrix.expand(*x.shape, x.shape[-1])
        return Quadratic(value, gradient, hessian, 1e-15 * (1 + value.abs().detach()))

    return evaluate


def valley(x: Tensor, *, exact: bool = True) -> Quadratic:
    """(1 − a)² + 100 (b − a²)²: H. H. Rosenbrock, Comput. J. 3 (1960) 175; least at (1, 1)."""
    a, b = x.unbind(-1)
    value = (1 - a) ** 2 + 100 * (b - a**2) ** 2
    gradient = torch.stack([2 * (a - 1) - 400 * a * (b - a**2), 200 * (b - a**2)], -1)
    rows = [
        [2 - 400 * (b - 3 * a**2), -400 * a],
        [-400 * a, torch.full_like(a, 200)],
    ]
    hessian = torch.stack([torch.stack(row, -1) for row in rows], -2)
    return Quadratic(value, gradient, hessian, 1e-14 * (1 + value))


def random_bowls(n_rays: int, n_unknowns: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Positive definite matrices with condition numbers up to some hundreds, and centers."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n_rays, n_unknowns, n_unknowns, generator=generator)
    matrix = root @ root.mT + 0.05 * torch.eye(n_unknowns)
    return matrix, 2 * torch.randn(n_rays, n_unknowns, generator=generator)
