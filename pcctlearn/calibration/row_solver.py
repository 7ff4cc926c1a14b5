"""Pixels of one row fitted to their counts of an unknown object, and to flat rings at last."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from pcctlearn.calibration.ring_flatness import HighPass, RingFlatness
from pcctlearn.calibration.scan_problem import (
    DecomposedScan,
    Normal,
    Quadratic,
    ScanProblem,
    Unknowns,
    inverted,
)
from pcctlearn.scan import SHADOW_G_CM2
from pcctlearn.solvers.conjugate_gradients import conjugate_gradients

log = logging.getLogger(__name__)

_LONGEST = (0.1, 0.02, 2.0)  # steps of ln k, of a thickness in cm, of a threshold in keV
_SHORT = 0.05  # standard deviations, of the step of the median pixel that is the last
_UNSETTLED = 1.0  # standard deviations, of the last step of a pixel that has not converged
_REVERSED = 0.5  # of a step, by the one after it, which is then halved
_CLOSE = 0.02  # standard deviations, to which conjugate gradients solve for a step
_MOST_ITERATIONS = 30
_EDGE = 3.0  # standard deviations of a line integral from the parabola, beyond which it is an edge
_POOR = 1.5  # times the χ² of the median pixel
_LEAST_CHANCE = 1e-9


class RowFit(NamedTuple):
    """What was found of a row of pixels.

    ``chi2`` is the deviance of each pixel, with ``n_spare`` degrees of freedom; ``shadowed`` counts
    the views used in which the pixel sees the object; ``last_step`` is in standard deviations.
    """

    theta: Unknowns
    covariance: Normal
    chi2: Float[Tensor, "pixel"]
    n_spare: Float[Tensor, "pixel"]
    shadowed: Float[Tensor, "pixel"]
    last_step: Float[Tensor, "pixel"]

    @property
    def settled(self) -> Bool[Tensor, "pixel"]:
        """Pixels whose last step was short."""
        return self.last_step < _UNSETTLED

    def poor(self, good: Bool[Tensor, "pixel"]) -> Bool[Tensor, "pixel"]:
        """Pixels that leave more over than the median of the good ones, and than noise does."""
        ratio = self.chi2 / self.n_spare.clamp(min=1)
        chance = stats.chi2.isf(_LEAST_CHANCE, self.n_spare.clamp(min=1).numpy())
        return (ratio > _POOR * ratio[good].median()) & (self.chi2 > torch.from_numpy(chance))


@dataclass(frozen=True)
class RowSolver:
    """Gauss–Newton steps for θ = (ln k, x, T): pixel by pixel until short, then with the rings.

    A step that takes back more than half of the one before is halved, as are all later steps of
    its pixel: where noise dominates the curvature, full steps overshoot without end.

    Args:
        gain_sd, thickness_sd_cm, threshold_sd_keV: of the prior of ln k, x and T.
        window_columns: of the parabola that the high-pass subtracts.
        deviance, flatness: use these sums.
        max_rounds: of decompositions with the pixels found before.
    """

    gain_sd: float
    thickness_sd_cm: float
    threshold_sd_keV: float
    window_columns: int
    deviance: bool
    flatness: bool
    max_rounds: int

    def _precision(self, problem: ScanProblem) -> Normal:
        """Of the prior, the same for all pixels."""
        n = len(problem.nominal_keV)
        n_materials = problem.n_unknowns - 1 - n
        sd = [self.gain_sd, *[self.thickness_sd_cm] * n_materials, *[self.threshold_sd_keV] * n]
        precision = torch.diag(torch.tensor(sd, dtype=torch.float64) ** -2)
        return precision.expand(len(problem.air), -1, -1)

    @torch.no_grad()
    def __call__(self, problem: ScanProblem, good: Bool[Tensor, "pixel"]) -> RowFit:
        """Fit the good pixels; what is found of the others means nothing."""
        start = theta = problem.start()
        precision = self._precision(problem)
        n = len(problem.nominal_keV)
        n_materials = problem.n_unknowns - 1 - n
        gain, thickness, threshold = _LONGEST
        longest = theta.new_tensor([gain, *[thickness] * n_materials, *[threshold] * n])
        high_pass = HighPass(good, self.window_columns)
        with_rings = False
        share, last = torch.ones_like(theta[:, :1]), torch.zeros_like(theta)
        for number in range(self.max_rounds):
            scan = problem.decomposed(theta)
            mean = start.clone()
            if self.deviance:  # which determines what all pixels share: it is no flaw of one
                mean[:, :-n] = theta[good, :-n].median(0).values
            off = torch.einsum("pkl,pl->pk", precision, theta - mean)
            own = problem.of_air(theta) + Quadratic(off, precision)
            own = own + scan.misfit if self.deviance else own
            if with_rings:
                step, covariance = self._with_rings(problem, theta, scan, own, high_pass)
            else:
                covariance = torch.linalg.inv(own.normal)
                step = -torch.einsum("pkl,pl->pk", covariance, own.gradient)
            step = step.clamp(-longest, longest)
            inverse = torch.linalg.inv(covariance)
            size = torch.einsum("pk,pkl,pl->p", step, inverse, step).sqrt()
            back = torch.einsum("pk,pkl,pl->p", step, inverse, last)
            before = torch.einsum("pk,pkl,pl->p", last, inverse, last)
            share = torch.where((back < -_REVERSED * before)[:, None], share / 2, share)
            theta, last = problem.within(theta + share * step), step
            log.info("round %d: steps of %.2g standard deviations", number, size[good].median())
            short = bool(size[good].median() < _SHORT)
            if (
                (with_rings or not self.flatness)
                and short
                and bool((size[good] < _UNSETTLED).all())
            ):
                break
            with_rings = with_rings or (self.flatness and short)
        scan = problem.decomposed(theta)
        n_bins = problem.counts.shape[-1]
        n_spare = (n_bins - scan.area.shape[-1]) * scan.rays.sum(0).to(theta)
        shadowed = (scan.rays & (scan.area.sum(-1) > SHADOW_G_CM2)).sum(0).to(theta)
        return RowFit(theta, covariance, scan.deviance, n_spare, shadowed, size)

    def _with_rings(
        self,
        problem: ScanProblem,
        theta: Unknowns,
        scan: DecomposedScan,
        own: Quadratic,
        high_pass: HighPass,
    ) -> tuple[Unknowns, Normal]:
        """A step that flattens the rings, too, and the covariance of θ, without that of others."""
        smooth = high_pass.smooth(scan.area)
        off = scan.area - smooth
        square = torch.einsum("vpm,vpmn,vpn->vp", off, inverted(scan.noise), off)
        edge = square > _EDGE**2 * off.shape[-1]
        around = problem.around(theta, torch.where(edge[..., None], scan.area, smooth))
        without = torch.linalg.inv(own.normal)
        rings = RingFlatness(high_pass, scan.area, *around, without, scan.rays)
        total = own + rings.at_pixels
        covariance = torch.linalg.inv(total.normal)

        def normal(step: Unknowns) -> Unknowns:
            return torch.einsum("pkl,pl->pk", own.normal, step) + rings.normal(step)

        def precondition(right: Unknowns) -> Unknowns:
            return torch.einsum("pkl,pl->pk", covariance, right)

        goal = _CLOSE**2 * len(theta)
        step = conjugate_gradients(normal, -total.gradient, precondition, goal, _MOST_ITERATIONS)
        return step, covariance
