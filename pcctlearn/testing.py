"""Laws of linear operators and detector responses, as checks for tests."""

from typing import Any

import torch


def check_adjoint(A: Any, dtype: torch.dtype = torch.float64) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩, for y = A x and for random y."""
    x = torch.randn(2, *A.in_shape, dtype=dtype)
    Ax = A @ x
    assert (A.T @ Ax).dtype == dtype
    for y in (Ax, torch.randn_like(Ax)):
        gap = (Ax.double() * y.double()).sum() - (x.double() * (A.T @ y).double()).sum()
        error = gap.abs() / (Ax.double().norm() * y.double().norm())
        assert error <= (1e-12 if dtype == torch.float64 else 1e-6), f"{A!r}: {error:.1e}"


def check_linear(A: Any) -> None:
    """A (a x + b y) = a A x + b A y, on any leading axes."""
    x, y = torch.randn(2, 3, 2, *A.in_shape)
    torch.testing.assert_close(A @ (2 * x - 3 * y), 2 * (A @ x) - 3 * (A @ y))
    one_by_one = torch.stack([torch.stack([A @ image for image in batch]) for batch in x])
    torch.testing.assert_close(A @ x, one_by_one)


def check_gradient(A: Any) -> None:
    """The backward pass is the transpose, ⟨∂⟨A x, y⟩/∂x, v⟩ = ⟨y, A v⟩, and its own is A again."""
    x, v = torch.randn(2, 1, *A.in_shape, dtype=torch.float64)
    y = torch.randn(1, *A.out_shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(A @ x.requires_grad_(), x, y, create_graph=True)
    (again,) = torch.autograd.grad(gradient, y, v)
    Av = A @ v
    gap = (gradient * v).sum() - (y * Av).sum()
    assert gap.abs() <= 1e-12 * y.norm() * Av.norm(), f"{A!r}: {gap.item():.1e}"
    torch.testing.assert_close(again, Av, rtol=1e-10, atol=1e-12 * float(Av.abs().max()))


def check_response(response: Any, energies_keV: torch.Tensor, edges_keV: torch.Tensor) -> None:
    """Events above an edge decrease to zero and are C¹ in the edge: finite differences agree."""
    above = response.above(edges_keV, energies_keV).detach()
    assert (above.diff(dim=0) <= 1e-12).all()
    assert (above[edges_keV.argmin()] > 0).all()
    beyond = energies_keV[-1:] + torch.tensor([40.0])
    assert response.above(beyond, energies_keV).abs().max() < 1e-9

    edges = edges_keV.clone().requires_grad_()
    weights = torch.rand_like(above)  # a weighted sum, so that errors of single columns count
    (slope,) = torch.autograd.grad((response.above(edges, energies_keV) * weights).sum(), edges)
    h = 1e-5
    below, beyond = (
        (response.above(edges_keV + side, energies_keV) * weights).sum(-1).detach()
        for side in (-h, h)
    )
    assert slope.abs().max() > 1e-3
    torch.testing.assert_close(slope, (beyond - below) / (2 * h), rtol=0, atol=1e-5)
