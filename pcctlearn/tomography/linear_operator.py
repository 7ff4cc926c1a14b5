"""Linear maps as objects that compose: ``A @ x``, ``A.T @ y``, ``A @ B``, ``A + B``."""

from math import prod
from typing import Any, overload

import torch
from torch import Tensor, nn

from pcctlearn.tomography.memory import require_memory


class _Apply(torch.autograd.Function):
    """y = A x, with the backward pass x̄ = Aᵀ ȳ, which is differentiable in turn."""

    @staticmethod
    def forward(x: Tensor, operator: "LinearOperator") -> Tensor:
        return operator.matvec(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, "LinearOperator"], output: Tensor) -> None:
        _, ctx.operator = inputs

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return _Apply.apply(cotangent, ctx.operator.T), None


class LinearOperator(nn.Module):
    """A linear map of the last axes of an array; leading axes are a batch.

    A subclass overrides ``matvec``, and ``rmatvec`` if a hand-written adjoint is faster than the
    one that autograd derives. Use it as ``A @ x`` and ``A.T @ y``, which check their operand.
    """

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)

    def matvec(self, x: Tensor) -> Tensor:
        """A x, for any number of leading axes."""
        raise NotImplementedError(f"{type(self).__name__} must define matvec")

    def rmatvec(self, y: Tensor) -> Tensor:
        """Aᵀ y."""
        zero = y.new_zeros(*y.shape[: y.ndim - len(self.out_shape)], *self.in_shape)
        return torch.func.vjp(self.matvec, zero)[1](y)[0]

    @property
    def T(self) -> "LinearOperator":
        """The adjoint as an operator."""
        return Adjoint(self)

    def peak_bytes(self, n_images: int, itemsize: int) -> int:
        """Peak memory of A x in bytes, including its result."""
        return n_images * itemsize * prod(self.out_shape)

    def forward(self, x: Tensor) -> Tensor:
        """A x, differentiable any number of times."""
        if tuple(x.shape[-len(self.in_shape) :]) != self.in_shape:
            raise ValueError(f"{self!r} cannot take an array of shape {tuple(x.shape)}")
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{self!r} needs float32 or float64, got {x.dtype}: convert the operand with "
                ".float()"
            )
        # one pass: a finite sum has only finite terms, but finite terms may overflow
        if not x.sum().isfinite() and not x.isfinite().all():
            n_bad = int((~x.isfinite()).sum())
            raise ValueError(
                f"{n_bad} of {x.numel()} values passed to {self!r} are NaN or infinite: replace "
                "them first, with torch.nan_to_num or a mask"
            )
        n_images = prod(x.shape[: x.ndim - len(self.in_shape)])
        require_memory(repr(self), self.peak_bytes, n_images, x)
        return _Apply.apply(x, self)

    @overload
    def __matmul__(self, other: "LinearOperator") -> "LinearOperator": ...
    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    def __matmul__(self, other: "LinearOperator | Tensor") -> "LinearOperator | Tensor":
        return Composition(self, other) if isinstance(other, LinearOperator) else self(other)

    def __add__(self, other: "LinearOperator") -> "LinearOperator":
        return Sum(self, other)

    def __repr__(self) -> str:
        return f"{self._get_name()} {self.in_shape} → {self.out_shape}"


class Adjoint(LinearOperator):
    """Aᵀ."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(operator.out_shape, operator.in_shape)
        self.operator = operator

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.operator.rmatvec(x)

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        return self.operator.matvec(y)

    def peak_bytes(self, n_images: int, itemsize: int) -> int:  # noqa: D102
        forward = self.operator.peak_bytes(n_images, itemsize)
        difference = prod(self.out_shape) - prod(self.in_shape)  # of the results
        return forward + n_images * itemsize * difference

    @property
    def T(self) -> LinearOperator:  # noqa: D102
        return self.operator

    def _get_name(self) -> str:
        return f"{self.operator._get_name()}.T"


class Composition(LinearOperator):
    """A B."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        if outer.in_shape != inner.out_shape:
            raise ValueError(f"cannot apply {outer!r} after {inner!r}")
        super().__init__(inner.in_shape, outer.out_shape)
        self.outer, self.inner = outer, inner

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.outer.matvec(self.inner.matvec(x))

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        return self.inner.rmatvec(self.outer.rmatvec(y))

    def peak_bytes(self, n_images: int, itemsize: int) -> int:  # noqa: D102
        between = n_images * itemsize * prod(self.inner.out_shape)
        outer = self.outer.peak_bytes(n_images, itemsize)
        return max(self.inner.peak_bytes(n_images, itemsize), between + outer)

    def _get_name(self) -> str:
        return f"({self.outer._get_name()} @ {self.inner._get_name()})"


class Sum(LinearOperator):
    """A + B."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if (left.in_shape, left.out_shape) != (right.in_shape, right.out_shape):
            raise ValueError(f"cannot add {left!r} and {right!r}")
        super().__init__(left.in_shape, left.out_shape)
        self.left, self.right = left, right

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.left.matvec(x) + self.right.matvec(x)

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        return self.left.rmatvec(y) + self.right.rmatvec(y)

    def peak_bytes(self, n_images: int, itemsize: int) -> int:  # noqa: D102
        left = self.left.peak_bytes(n_images, itemsize)
        right = super().peak_bytes(n_images, itemsize) + self.right.peak_bytes(n_images, itemsize)
        return max(left, right)

    def _get_name(self) -> str:
        return f"({self.left._get_name()} + {self.right._get_name()})"


class Diagonal(LinearOperator):
    """Multiplication by weights that broadcast to shape, element by element; its own adjoint."""

    weights: Tensor

    def __init__(self, weights: Tensor, shape: tuple[int, ...] | None = None) -> None:
        shape = tuple(weights.shape) if shape is None else shape
        super().__init__(shape, shape)
        self.register_buffer("weights", weights, persistent=False)

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.weights.to(x.dtype) * x

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        return self.matvec(y)
