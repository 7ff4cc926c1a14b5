"""The laws of each kind of object, for the tests of every room."""

from typing import Any

import torch


def check_adjoint(A: Any, dtype: torch.dtype = torch.float64) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩, for y = A x and for any y; with signs, so that nothing averages out."""
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
    """The gradient is the adjoint, and has a gradient of its own."""
    x = torch.randn(1, *A.in_shape, requires_grad=True)
    assert torch.autograd.gradcheck(A, x)
    assert torch.autograd.gradgradcheck(lambda x: (A @ x) ** 2, x)
