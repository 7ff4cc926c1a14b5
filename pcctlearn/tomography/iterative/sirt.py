"""SIRT and its ordered-subsets form OS-SART: back-projection of weighted residuals."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcctlearn.tomography.iterative.monitor import (
    Monitor,
    Reconstruction,
    check_sinogram,
    first_iterate,
    norm,
)
from pcctlearn.tomography.linear_operator import LinearOperator


def sirt(
    A: LinearOperator,
    y: Tensor,
    *,
    start: Tensor | None = None,
    relaxation: float = 1.0,
    nonnegative: bool = False,
    max_iterations: int = 100,
    tolerance: float = 0.0,
    noise_level: float | None = None,
    progress: bool = False,
) -> Reconstruction:
    """x ← x + λ C Aᵀ R (y − A x), with R = 1 / (A 1) and C = 1 / (Aᵀ 1), for nonnegative A.

    It converges to the least-squares solution weighted by R; Σ R (y − A x)² never increases.
    A ray that misses the image has R = 0; a voxel without rays has C = 0 and keeps its start.

    J. Gregor and T. Benson, "Computational analysis and improvement of SIRT", IEEE Trans. Med.
    Imaging 27 (2008) 918. doi:10.1109/TMI.2008.923696

    Differentiable in y and start; autograd keeps the images of all iterations.

    Args:
        A: from images to sinograms; leading axes are independent problems.
        y: (*batch, *A.out_shape), operand · cm.
        start: (*batch, *A.in_shape); zero unless given.
        relaxation: λ, between 0 and 2.
        nonnegative: set negative voxels to zero in every iteration.
        max_iterations, tolerance, noise_level: stopping rules of each image, see ``Monitor``.
        progress: show a progress bar.
    """
    monitor = Monitor("SIRT", max_iterations, tolerance, noise_level, progress)
    subset = _Subset.of(A, y, relaxation, nonnegative)
    x = first_iterate(A, y, start)
    return monitor.follow(_sirt(subset, x), x, norm(y, A.out_shape))


def os_sart(
    operators: Sequence[LinearOperator],
    sinograms: Sequence[Tensor],
    *,
    start: Tensor | None = None,
    relaxation: float = 1.0,
    nonnegative: bool = False,
    max_iterations: int = 20,
    tolerance: float = 0.0,
    noise_level: float | None = None,
    progress: bool = False,
) -> Reconstruction:
    """x ← x + λ Cₛ Aₛᵀ Rₛ (yₛ − Aₛ x), for each subset s of the rays in one iteration.

    With n subsets of every n-th view, an iteration is nearly as effective as n iterations of SIRT;
    for inconsistent data the iterates end in a cycle around the solution. Each subset needs an
    image of weights.

    The residual of an iteration combines the residuals of the subsets before each correction, so
    that monitoring needs no extra projection. Otherwise as ``sirt``.

    G. Wang and M. Jiang, "Ordered-subset simultaneous algebraic reconstruction techniques
    (OS-SART)", J. X-Ray Sci. Technol. 12 (2004) 169.

    Args:
        operators: Aₛ, all of the same images.
        sinograms: yₛ, (*batch, *Aₛ.out_shape), in the same order.
        start, relaxation, nonnegative, max_iterations, tolerance, noise_level: see ``sirt``.
        progress: show a progress bar.
    """
    monitor = Monitor("OS-SART", max_iterations, tolerance, noise_level, progress)
    _check_subsets(operators, sinograms)
    subsets = [
        _Subset.of(A, y, relaxation, nonnegative, f"sinograms[{i}]")
        for i, (A, y) in enumerate(zip(operators, sinograms, strict=True))
    ]
    x = first_iterate(operators[0], sinograms[0], start)
    y_norm = torch.stack([norm(subset.y, subset.A.out_shape) for subset in subsets]).norm(dim=0)
    return monitor.follow(_os_sart(subsets, x), x, y_norm)


class _Subset(NamedTuple):
    """A subset of the rays, its data, and the weights of its correction."""

    A: LinearOperator
    y: Tensor
    ray_weights: Tensor  # R
    voxel_weights: Tensor  # λ C
    nonnegative: bool

    @classmethod
    def of(
        cls, A: LinearOperator, y: Tensor, relaxation: float, nonnegative: bool, name: str = "y"
    ) -> "_Subset":
        if not 0 < relaxation < 2:
            raise ValueError(f"relaxation must lie between 0 and 2, got {relaxation}")
        check_sinogram(A, y, name)
        R = _reciprocal(A @ y.new_ones(A.in_shape))
        C = _reciprocal(A.T @ y.new_ones(A.out_shape))
        return cls(A, y, R, relaxation * C, nonnegative)

    def residual(self, x: Tensor) -> Tensor:
        return self.y - self.A @ x

    def correct(self, x: Tensor, residual: Tensor) -> Tensor:
        x = x + self.voxel_weights * (self.A.T @ (self.ray_weights * residual))
        return x.clamp(min=0) if self.nonnegative else x


def _sirt(subset: _Subset, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    residual = subset.residual(x)
    while True:
        x = subset.correct(x, residual)
        residual = subset.residual(x)
        yield x, norm(residual, subset.A.out_shape)


def _os_sart(subsets: list[_Subset], x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        residual_norms = []
        for subset in subsets:
            residual = subset.residual(x)
            x = subset.correct(x, residual)
            residual_norms.append(norm(residual, subset.A.out_shape))
        yield x, torch.stack(residual_norms).norm(dim=0)


def _reciprocal(sums: Tensor) -> Tensor:
    """1 / sums, and zero for rays that meet no voxel and voxels that meet no ray."""
    return torch.where(sums > 0, 1 / sums, 0)


def _check_subsets(operators: Sequence[LinearOperator], sinograms: Sequence[Tensor]) -> None:
    if not operators or len(operators) != len(sinograms):
        raise ValueError(
            "os_sart needs one sinogram for each of its operators, got "
            f"{len(operators)} operators and {len(sinograms)} sinograms"
        )
    shapes = [A.in_shape for A in operators]
    if len(set(shapes)) > 1:
        raise ValueError(f"operators must share one in_shape, got {shapes}")
    batches = [
        tuple(y.shape[: y.ndim - len(A.out_shape)])
        for A, y in zip(operators, sinograms, strict=True)
    ]
    if len(set(batches)) > 1:
        raise ValueError(f"sinograms must share their batch axes, got {batches}")
