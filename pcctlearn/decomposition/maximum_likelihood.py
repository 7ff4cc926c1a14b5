"""Maximum-likelihood material decomposition as a pure function and as a layer."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pcctlearn.decomposition.pieces import (
    Piece,
    RayLayout,
    gather,
    left_over,
    rays_contiguous,
    scatter,
)
from pcctlearn.decomposition.polynomial import PolynomialDecomposition
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
)
from pcctlearn.solvers.implicit import implicit_minimum
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds, Objective, Solution, Solver

log = logging.getLogger(__name__)

_STEPS_OF_MOST = 5  # steps after which nearly all rays are done
_FEW = 0.1  # share of the rays of a piece that may be left to go on by themselves


def decompose(
    counts: RayCounts,
    spectra: Spectra,
    attenuation: Attenuation,
    *,
    solver: Solver | None = None,
    bounds: Bounds | Sequence[Sequence[float]] | None = None,
    start: RayLineIntegrals | None = None,
) -> Solution:
    """A* = argmin_A Σ_b ȳ_b(A) − n_b log ȳ_b(A) for every ray, differentiable at the minimum.

    Gradients reach counts, spectra and attenuation by the implicit function theorem (and through
    them thresholds, fluence and response). Rays are solved in chunks, so memory does not grow
    with their number, nor with the solver's iterations.

    Args:
        counts: (*ray, bin), photons.
        spectra: (bin, energy), or (*pixel, bin, energy) whose leading axes broadcast against the
            last axes of the rays: one per ray, or one per detector column shared by all views.
        attenuation: (material, energy), cm²/g.
        solver: ``DampedNewton()`` unless given. It is preceded by five steps of Fisher scoring,
            whose matrix is positive definite however far the start.
        bounds: box for each material, (lower, upper), each of length ``material``, g/cm².
        start: first iterate, (*ray, material); by default the polynomial of these spectra. Rays
            that do not converge from it begin anew with an empty beam. The likelihood may have
            more than one minimum: ``compare_starts`` tells for which rays that matters.

    Returns:
        ``x`` (*ray, material) in g/cm² and ``converged`` (*ray). A ray without a single count
        never counts as converged: it says no more than that much lay in its way.

    Raises:
        ValueError: counts that are negative or not finite; axes that do not fit.
    """
    counts = counts if counts.is_floating_point() else counts.to(spectra)
    _check(counts, spectra, attenuation)
    solver = solver or DampedNewton()
    box = _bounds(bounds, attenuation)
    layout = RayLayout(counts.shape[:-1], spectra.shape[:-2])
    polynomial = None if start is not None else PolynomialDecomposition(spectra, attenuation)
    air = None if polynomial is None or layout.shared else polynomial.air.flatten(0, -2)[:, None]
    pieces = [
        piece if polynomial is None else piece._replace(start=polynomial(piece.counts, piece.air))
        for piece in layout.cut(counts, spectra, start, air)
    ]

    def minimum(piece: Piece, solver: Solver) -> Solution:
        assert piece.start is not None
        n, x = rays_contiguous(piece.counts), rays_contiguous(piece.start)
        return implicit_minimum(
            poisson_likelihood, solver, x, n, piece.spectra, attenuation, bounds=box
        )

    if not getattr(solver, "differentiable", False):
        with torch.no_grad():
            found = _solve(pieces, solver, minimum)
        # the derivative is that of the minimum, whichever way it was found
        known = [_Known(_counted(s, p)) for s, p in zip(found, pieces, strict=True)]
        solutions = [minimum(p, solved) for p, solved in zip(pieces, known, strict=True)]
    else:
        solutions = [minimum(piece, solver) for piece in pieces]
    return layout.join([_counted(s, p) for s, p in zip(solutions, pieces, strict=True)])


def _solve(
    pieces: list[Piece], solver: Solver, minimum: Callable[[Piece, Solver], Solution]
) -> list[Solution]:
    """A few steps of Fisher scoring for all rays, then the solver itself for those left.

    Scoring is cheaper a step, and its matrix is positive definite however far the start. Where few
    are left, those of all pieces are gathered and go on by themselves; where many are, the piece
    goes on as it is, for a gathered ray brings its own spectra and costs more.
    """
    if not isinstance(solver, DampedNewton) or solver.max_steps <= _STEPS_OF_MOST:
        return [minimum(piece, solver) for piece in pieces]
    scoring = DampedNewton(solver.tolerance, _STEPS_OF_MOST, exact=False)
    found = []
    for piece in pieces:
        solution = minimum(piece, scoring)
        if (~solution.converged).double().mean() > _FEW:
            solution = minimum(piece._replace(start=solution.x), solver)
        found.append(solution)
    rays = left_over(pieces, found)
    if not any(len(some) for some in rays):
        return found
    solved = [_persist(piece, solver, minimum) for piece in gather(pieces, found, rays)]
    return scatter(found, rays, solved)


def _persist(
    piece: Piece, solver: Solver, minimum: Callable[[Piece, Solver], Solution]
) -> Solution:
    """Go on from where the rays are; those that do not get there begin anew with an empty beam.

    With three materials the polynomial start may lie on the far side of a ridge; from an empty
    beam the expected counts only fall towards the measured ones.
    """
    first = minimum(piece, solver)
    if bool(first.converged.all()):
        return first
    again = minimum(piece._replace(start=torch.zeros_like(first.x)), solver)
    better = again.converged & ~first.converged
    return Solution(
        torch.where(better[..., None], again.x, first.x), first.converged | again.converged
    )


def _counted(solution: Solution, piece: Piece) -> Solution:
    """A ray without a count has no minimum, however flat the likelihood is where it was left."""
    return Solution(solution.x, solution.converged & (piece.counts.detach().sum(-1) > 0))


class _Known:
    """A solver that has been told the answer."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution

    def __call__(
        self, objective: Objective, start: Tensor, bounds: Bounds | None = None
    ) -> Solution:
        return self.solution


class MaximumLikelihood(nn.Module):
    """Counts to line integrals through ``decompose``, as one stage of the chain.

    Args:
        model: the scanner; its spectra are taken afresh at each call, so they may be learned.
        solver: see ``decompose``.
        bounds_g_cm2: {material name: (lower, upper)}; materials not named are free.
        gradient_clamp: largest gradient that may pass, element by element, in terms of the
            relative counts n/air; ``None`` for no limit. It keeps single rays with few counts from
            setting the step; one that many rays reach turns the gradient away, and the loss may
            rise.

    After a call ``converged`` holds the mask of the rays, and the log tells how many were not
    solved and how many lie at the side of the box.
    """

    def __init__(
        self,
        model: SpectralModel,
        solver: Solver | None = None,
        bounds_g_cm2: Mapping[str, Sequence[float]] | None = None,
        gradient_clamp: float | None = None,
    ) -> None:
        super().__init__()
        if unknown := set(bounds_g_cm2 or {}) - set(model.materials):
            raise ValueError(
                f"bounds_g_cm2 names {sorted(unknown)}, the basis materials are {model.materials}"
            )
        self.model, self.solver, self.gradient_clamp = model, solver, gradient_clamp
        self.bounds_g_cm2 = dict(bounds_g_cm2 or {})
        self.converged: Tensor | None = None

    def forward(self, counts: Counts) -> LineIntegrals:
        """Decompose (batch, bin, view, *pixel) into (batch, material, view, *pixel), g/cm²."""
        rays = counts.movedim(1, -1)
        if self.gradient_clamp is not None:
            air = self.model.air().detach().to(rays)
            rays = _clamp_gradient(rays / air, self.gradient_clamp) * air
        spectra, attenuation = self.model.spectra().to(rays), self.model.attenuation.to(rays)
        box = self.bounds()
        x, self.converged = decompose(rays, spectra, attenuation, solver=self.solver, bounds=box)
        self._report(x.detach(), box)
        return x.movedim(-1, 1)

    def bounds(self) -> list[list[float]] | None:
        """Lower and upper corner of the box, or None where every material is free."""
        if not self.bounds_g_cm2:
            return None
        free = (-math.inf, math.inf)
        sides = [self.bounds_g_cm2.get(name, free) for name in self.model.materials]
        return [[float(low) for low, _ in sides], [float(high) for _, high in sides]]

    def _report(self, x: Tensor, box: list[list[float]] | None) -> None:
        assert self.converged is not None
        failed = int((~self.converged).sum())
        at_side = 0
        if box is not None:
            lower, upper = x.new_tensor(box)
            at_side = int(((x <= lower) | (x >= upper)).any(-1).sum())
        if failed or at_side:
            log.warning(
                "%d of %d rays were not solved, %d lie at the side of the box",
                failed,
                self.converged.numel(),
                at_side,
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
    """Decompose from two starts; return the likelier minimum and the rays where they disagree.

    The likelihood is not convex. With three materials two minima can lie far apart at nearly the
    same likelihood, and which one is found is a matter of the start.
    """
    options = {"solver": solver, "bounds": bounds}
    first = decompose(counts, spectra, attenuation, **options)  # type: ignore[arg-type]
    second = decompose(counts, spectra, attenuation, start=second_start, **options)  # type: ignore[arg-type]
    means = [expected_counts(x.detach(), spectra, attenuation) for x in (first.x, second.x)]
    values = [(mean - torch.xlogy(counts, mean)).sum(-1) for mean in means]
    better = second.converged & (~first.converged | (values[1] < values[0]))
    apart = ((first.x - second.x).abs() > tolerance_g_cm2).any(-1)
    solution = Solution(
        torch.where(better[..., None], second.x, first.x), first.converged | second.converged
    )
    return solution, apart & first.converged & second.converged


def _check(counts: Tensor, spectra: Tensor, attenuation: Tensor) -> None:
    if counts.shape[-1] != spectra.shape[-2]:
        raise ValueError(
            f"counts have {counts.shape[-1]} bins, the spectra {spectra.shape[-2]}: "
            "give one threshold more than there are bins in the counts"
        )
    if spectra.shape[-1] != attenuation.shape[-1]:
        raise ValueError(
            f"spectra have {spectra.shape[-1]} energies, attenuation {attenuation.shape[-1]}: "
            "put both on one grid"
        )
    if len(attenuation) > counts.shape[-1]:
        raise ValueError(
            f"{len(attenuation)} materials cannot be told apart in {counts.shape[-1]} bins: "
            "use fewer materials or more thresholds"
        )
    sound = counts.isfinite() & (counts >= 0)
    if not bool(sound.all()):
        wrong = counts.detach()[~sound]
        raise ValueError(
            f"counts must be finite and not negative: {len(wrong)} of {counts.numel()} are not, "
            f"the first is {wrong[0].item():g}; mask or repair dead pixels before decomposing"
        )


def _bounds(
    bounds: Bounds | Sequence[Sequence[float]] | None, attenuation: Tensor
) -> Bounds | None:
    if bounds is None:
        return None
    lower, upper = (
        torch.as_tensor(side, dtype=attenuation.dtype, device=attenuation.device) for side in bounds
    )
    shape = (len(attenuation),)
    if lower.shape != shape or upper.shape != shape or not (lower < upper).all():
        raise ValueError(
            f"bounds must be (lower, upper) with {len(attenuation)} increasing pairs, got "
            f"{lower.tolist()} and {upper.tolist()}"
        )
    return Bounds(lower, upper)


def _clamp_gradient(values: Tensor, limit: float) -> Tensor:
    """The values, passing back a gradient clamped element by element."""
    values = values.clone()
    if values.requires_grad:
        values.register_hook(_clamp(limit))
    return values


def _clamp(limit: float) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient.clamp(-limit, limit)
