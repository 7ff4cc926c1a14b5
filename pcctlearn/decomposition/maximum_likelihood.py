"""Maximum-likelihood material decomposition as a pure function and as a layer."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.ambiguity import informative
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.fused_gradients import with_derivative
from pcctlearn.decomposition.inputs import box, check, in_one_precision
from pcctlearn.decomposition.minima import find_minima, in_double, minimum
from pcctlearn.decomposition.pieces import (
    RayLayout,
    Rays,
    flat,
    put_back,
    rays_contiguous,
    started,
)
from pcctlearn.decomposition.polynomial import Polynomial, fit_polynomial
from pcctlearn.decomposition.sensitivity import count_jacobian
from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.shapes import (
    Attenuation,
    Counts,
    LineIntegrals,
    RayCounts,
    RayLineIntegrals,
    RayMask,
    Spectra,
    channels_first,
    channels_last,
)
from pcctlearn.solvers.implicit import Adjoint, implicit_derivative
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds, Solution, Solver

log = logging.getLogger(__name__)


def decompose(
    counts: RayCounts,
    spectra: Spectra,
    attenuation: Attenuation,
    *,
    solver: Solver | None = None,
    warm_start: Sequence[Solver] | None = None,
    adjoint: Adjoint = "implicit",
    bounds: Bounds | Sequence[Sequence[float]] | None = None,
    start: RayLineIntegrals | None = None,
) -> Solution:
    """A* = argmin_A Σ_b ȳ_b(A) − n_b log ȳ_b(A) for every ray, differentiable at the minimum.

    Gradients reach counts, spectra and attenuation by the implicit function theorem, and through
    them thresholds, fluence and response. Rays are solved in pieces, so the working memory depends
    neither on the number of rays nor on the number of iterations. With the default solvers, float32
    on a CPU and three materials or fewer, compiled functions do it (``decomposition.fused``).

    Args:
        counts: (*ray, bin), photons.
        spectra: (bin, energy), or (*pixel, bin, energy) whose leading axes broadcast against the
            last axes of the rays: one per ray, or one per detector column for all views.
        attenuation: (material, energy), cm²/g.
        solver: for rays that the warm start does not solve, in double precision; by default
            ``DampedNewton()``.
        warm_start: solvers that run first, by default a few steps of Newton's method
            (``WARM_START``), in compiled functions where they exist. The first
            solves all rays in their precision, the others solve the remaining rays in double
            precision. With ``()`` all rays go to ``solver``.
        adjoint: "implicit" differentiates the minimum; "unrolled" differentiates the steps of
            ``solver`` for all rays (use ``UnrolledNewton``).
        bounds: box for each material, (lower, upper), each of length ``material``, g/cm².
        start: first iterate, (*ray, material); rays that do not converge from it start again from
            zero material. By default the polynomial of these spectra; rays that need more than a
            few steps from it are also solved from zero material, and the likelier minimum is kept.
            The likelihood may have other minima: ``compare_starts`` finds such rays. With as many
            bins as materials two line integrals may fit the counts exactly, so that neither is
            likelier: which of them is returned depends on the start and the precision.

    Returns:
        ``x`` (*ray, material) in g/cm² and ``converged`` (*ray), in the widest precision of the
        inputs. A converged ray lies within 1e-4 g/cm² of a local minimum of its likelihood; rays
        that float32 does not resolve to this distance are solved in double precision
        (``find_minima``). A ray with less than half a photon in all bins together is never marked
        converged: its likelihood has no finite minimum. Rays are independent.

    Raises:
        TypeError: spectra or attenuation in half precision.
        ValueError: counts that are negative or not finite; spectra that are negative, not finite or
            zero for a whole bin; attenuation that is not finite; axes that do not match.
    """
    counts, spectra, attenuation = in_one_precision(counts, spectra, attenuation)
    check(counts, spectra, attenuation)
    if adjoint not in get_args(Adjoint):
        raise ValueError(f"adjoint must be one of {', '.join(get_args(Adjoint))}, got {adjoint!r}")
    limits = box(bounds, attenuation)
    layout = RayLayout(counts.shape[:-1], spectra.shape[:-2])
    rays = layout.ordered(counts, spectra, None if start is None else start.to(counts))
    polynomial = _first_iterate(spectra.detach(), attenuation.detach()) if start is None else None
    if adjoint == "unrolled":
        rays = started(rays, polynomial)
        x, converged = flat(
            [
                minimum(piece, attenuation, limits, solver or DampedNewton(), adjoint)
                for piece in rays.pieces()
            ]
        )
        enough = informative(rays.counts.detach()).flatten()
        x = torch.where(enough[:, None], x, x.detach())
        return layout.restored(Solution(x, converged & enough))
    with torch.no_grad():
        found = find_minima(rays, attenuation, solver, warm_start, limits, polynomial)
    if found.compiled:
        return layout.restored(with_derivative(found, rays, attenuation, limits))
    solution = _derivative(found.single, rays, attenuation, limits)
    if bool(found.hard.any()):
        hard, index = rays.take(found.hard)
        double = _derivative(found.double, *in_double(hard, attenuation, limits))
        solution = put_back(solution, index, double)
    return layout.restored(solution)


def _first_iterate(spectra: Spectra, attenuation: Attenuation) -> Polynomial:
    """Polynomial of the mean spectra, fitted on the CPU: a fit is many small operations."""
    mean = spectra.double().flatten(0, -3).mean(0) if spectra.ndim > 2 else spectra.double()
    fitted = fit_polynomial(mean.cpu(), attenuation.double().cpu())
    device = spectra.device
    return fitted._replace(
        coefficients=fitted.coefficients.to(device), range=fitted.range.to(device)
    )


def _derivative(
    known: Solution, rays: Rays, attenuation: Attenuation, bounds: Bounds | None
) -> Solution:
    """Known minima, flat, with their implicit derivative."""
    pieces = rays.pieces()
    sizes = [piece.counts[..., 0].numel() for piece in pieces]
    parts = []
    for piece, x, converged in zip(
        pieces, known.x.split(sizes), known.converged.split(sizes), strict=True
    ):
        shape = (*piece.counts.shape[:-1], len(attenuation))
        solution = Solution(x.reshape(shape), converged.reshape(shape[:-1]))
        theta = rays_contiguous(piece.counts), piece.spectra, attenuation
        parts.append(implicit_derivative(poisson_likelihood, solution, theta, bounds))
    return flat(parts)


class MaximumLikelihood(Decomposition):
    """Maximum-likelihood decomposition as a stage of the chain.

    A warning reports the numbers of rays that were not solved and that lie on a limit of the box.

    Args:
        model: the scanner; its spectra are computed at each call, so they may be learned.
        solver, warm_start, adjoint: see ``decompose``.
        bounds_g_cm2: {material name: (lower, upper)}; other materials are free. Bounds of
            materials that the model does not have are ignored, so that one table suits every basis.
        gradient_clamp: limit of each element of the gradient with respect to the relative counts
            n/air; ``None`` for no limit. It limits the influence of rays with few counts. If it
            clamps many rays, the gradient may no longer be a descent direction.
    """

    def __init__(
        self,
        model: SpectralModel,
        solver: Solver | None = None,
        bounds_g_cm2: Mapping[str, Sequence[float]] | None = None,
        gradient_clamp: float | None = None,
        warm_start: Sequence[Solver] | None = None,
        adjoint: Adjoint = "implicit",
    ) -> None:
        super().__init__(model)
        for name in set(bounds_g_cm2 or {}) - set(model.materials):
            mass_attenuation(name, [60.0])  # raises if the name is misspelt
        self.solver, self.warm_start, self.adjoint = solver, warm_start, adjoint
        self.gradient_clamp = gradient_clamp
        self.bounds_g_cm2 = dict(bounds_g_cm2 or {})

    def forward(self, counts: Counts) -> Solution:
        """Line integrals (batch, material, view, *pixel) in g/cm², and the mask of solved rays."""
        rays = channels_last(counts)
        if rays.dtype in (torch.float16, torch.bfloat16):  # too coarse for the spectra
            rays = rays.float()
        if self.gradient_clamp is not None:
            air = self.model.air().detach().to(rays)
            rays = _clamp_gradient(rays / air, self.gradient_clamp) * air
        spectra, attenuation = self.model.spectra().to(rays), self.model.attenuation.to(rays)
        solution = decompose(
            rays,
            spectra,
            attenuation,
            solver=self.solver,
            warm_start=self.warm_start,
            adjoint=self.adjoint,
            bounds=self.bounds(),
        )
        self._report(solution)
        return Solution(channels_first(solution.x), solution.converged)

    def count_jacobian(
        self, counts: Counts, line_integrals: LineIntegrals | None = None
    ) -> Float[Tensor, "batch view *pixel material bin"]:
        """∂x/∂n at the minimum (``sensitivity.count_jacobian``), in g/cm² per photon.

        A material on a limit of the box does not depend on the counts. Where a ray is not solved
        the result is meaningless.
        """
        rays = channels_last(counts)
        x = self(counts).x if line_integrals is None else line_integrals
        spectra = self.model.spectra().detach().to(rays)
        attenuation = self.model.attenuation.to(rays)
        limits = box(self.bounds(), attenuation)
        return count_jacobian(channels_last(x.detach()), rays, spectra, attenuation, limits)

    def bounds(self) -> list[list[float]] | None:
        """Lower and upper limits of the materials, or None if all materials are free."""
        if not self.bounds_g_cm2:
            return None
        free = (-math.inf, math.inf)
        sides = [self.bounds_g_cm2.get(name, free) for name in self.model.materials]
        return [[float(low) for low, _ in sides], [float(high) for _, high in sides]]

    def _report(self, solution: Solution) -> None:
        x, converged = solution.x.detach(), solution.converged
        failed, on_limit = int((~converged).sum()), 0
        if box := self.bounds():
            lower, upper = x.new_tensor(box)
            on_limit = int(((x <= lower) | (x >= upper)).any(-1).sum())
        if failed or on_limit:
            log.warning(
                "%d of %d rays were not solved, %d lie on a limit of the box (bounds_g_cm2)",
                failed,
                converged.numel(),
                on_limit,
            )


def compare_starts(
    counts: RayCounts,
    spectra: Spectra,
    attenuation: Attenuation,
    second_start: RayLineIntegrals,
    *,
    solver: Solver | None = None,
    bounds: Bounds | Sequence[Sequence[float]] | None = None,
    tolerance_g_cm2: float = 1e-3,
) -> tuple[Solution, RayMask]:
    """Decompose from two starts; return the likelier minimum and a mask of rays that disagree.

    The likelihood is not convex. With three materials, two minima of nearly equal likelihood can
    lie far apart, and the start decides which one is found.
    """
    counts, spectra, attenuation = in_one_precision(counts, spectra, attenuation)
    solve = partial(decompose, counts, spectra, attenuation, solver=solver, bounds=bounds)
    first, second = solve(), solve(start=second_start)
    n, S, mu = (t.detach().double() for t in (counts, spectra, attenuation))
    means = [expected_counts(x.detach().double(), S, mu) for x in (first.x, second.x)]
    values = [(mean - torch.xlogy(n, mean)).sum(-1) for mean in means]
    better = second.converged & (~first.converged | (values[1] < values[0]))
    apart = ((first.x - second.x).abs() > tolerance_g_cm2).any(-1)
    solution = Solution(
        torch.where(better[..., None], second.x, first.x), first.converged | second.converged
    )
    return solution, apart & first.converged & second.converged


def _clamp_gradient(values: Tensor, limit: float) -> Tensor:
    """The values, with their gradient clamped element by element."""
    values = values.clone()
    if values.requires_grad:
        values.register_hook(_clamp(limit))
    return values


def _clamp(limit: float) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient.clamp(-limit, limit)
