"""Result, stopping rules and progress bar of the iterative solvers."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from pcctlearn.tomography.linear_operator import LinearOperator

if TYPE_CHECKING:
    from rich.progress import Progress


class Reconstruction(NamedTuple):
    """Reconstructed images.

    ``residuals`` holds the relative residual ‖A x − y‖ / ‖y‖ of the worst image after each
    iteration. ``converged`` is True for images that met ``tolerance`` or ``noise_level``; the
    others reached ``max_iterations``.
    """

    x: Tensor
    residuals: list[float]
    converged: Bool[Tensor, "*image"]

    @property
    def n_iterations(self) -> int:
        """Iterations until the last image stopped."""
        return len(self.residuals)


@dataclass(frozen=True)
class Monitor:
    """Runs a solver until every image has met one of three stopping rules.

    ``tolerance``: stop at ‖x − x_before‖ ≤ tolerance · ‖x‖; 0 disables the rule.
    ``noise_level``: stop at ‖A x − y‖ ≤ noise_level · ‖y‖ (discrepancy principle); None disables
    the rule.
    ``max_iterations``: largest number of iterations.

    V. A. Morozov, "On the solution of functional equations by the method of regularization",
    Soviet Math. Dokl. 7 (1966) 414.
    """

    solver: str
    max_iterations: int
    tolerance: float
    noise_level: float | None
    progress: bool

    def __post_init__(self) -> None:
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")
        if not 0 <= self.tolerance < inf:
            raise ValueError(f"tolerance must be 0 or positive, got {self.tolerance}")
        if self.noise_level is not None and not 0 < self.noise_level < inf:
            raise ValueError(f"noise_level must be positive or None, got {self.noise_level}")

    def follow(
        self, iterates: Iterator[tuple[Tensor, Tensor]], start: Tensor, y_norm: Tensor
    ) -> Reconstruction:
        """Run the solver, which yields x and ‖A x − y‖; a stopped image keeps its iterate."""
        x, stopped = start, torch.zeros_like(y_norm, dtype=torch.bool)
        residual, residuals = torch.full_like(y_norm, inf), []
        with self._bar() as bar:
            for x_next, residual_norm in islice(iterates, self.max_iterations):
                relative = torch.where(residual_norm == 0, 0, residual_norm / y_norm)  # y may be 0
                met = self._met(x, x_next, relative)
                x = torch.where(per_image(stopped, x), x, x_next)
                residual = torch.where(stopped, residual, relative)
                stopped = stopped | met
                residuals.append(residual.amax())
                if bar:
                    bar.update(bar.task_ids[0], advance=1, residual=residuals[-1].item())
                if bool(stopped.all()):
                    break
        return Reconstruction(x, torch.stack(residuals).tolist(), stopped)

    def _met(self, x: Tensor, x_next: Tensor, relative_residual: Tensor) -> Tensor:
        met = torch.zeros_like(relative_residual, dtype=torch.bool)
        if self.tolerance > 0:
            image_shape = x.shape[met.ndim :]
            change = norm(x_next - x, image_shape)
            met |= change <= self.tolerance * norm(x_next, image_shape)
        if self.noise_level is not None:
            met |= relative_residual <= self.noise_level
        return met

    def _bar(self) -> "AbstractContextManager[Progress | None]":
        if not self.progress:
            return nullcontext()
        from rich import progress

        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("relative residual {task.fields[residual]:.2e}"),
        )
        bar.add_task(self.solver, total=self.max_iterations, residual=1.0)
        return bar


def check_sinogram(A: LinearOperator, y: Tensor, name: str = "y") -> None:
    """Raise ValueError unless y is finite and has the shape of A's output."""
    if tuple(y.shape[-len(A.out_shape) :]) != A.out_shape:
        raise ValueError(f"{name} must end in the axes of {A!r}, got shape {tuple(y.shape)}")
    if n_wrong := int((~y.isfinite()).sum()):
        raise ValueError(f"{name} must be finite, {n_wrong} of {y.numel()} values are not")


def first_iterate(A: LinearOperator, y: Tensor, start: Tensor | None) -> Tensor:
    """``start``, by default zero: one image for each sinogram."""
    shape = (*y.shape[: y.ndim - len(A.out_shape)], *A.in_shape)
    if start is None:
        return y.new_zeros(shape)
    if start.shape != shape:
        raise ValueError(f"start must have shape {shape}, got {tuple(start.shape)}")
    if start.dtype != y.dtype:
        raise TypeError(f"start must have the data's dtype {y.dtype}, got {start.dtype}")
    return start


def dot(a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Tensor:
    """⟨a, b⟩ of each image or sinogram of this shape."""
    return (a * b).sum(tuple(range(-len(shape), 0)))


def norm(a: Tensor, shape: tuple[int, ...]) -> Tensor:
    """‖a‖ of each image or sinogram of this shape, detached."""
    return torch.linalg.vector_norm(a.detach(), dim=tuple(range(-len(shape), 0)))


def per_image(numbers: Tensor, x: Tensor) -> Tensor:
    """One number per image, with axes added so that it broadcasts against x."""
    return numbers.reshape(numbers.shape + (1,) * (x.ndim - numbers.ndim))
