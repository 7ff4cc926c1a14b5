"""Thresholds learned through the decomposition layer."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from pcctlearn.calibration.gauss_newton import Curvature, GaussNewton
from pcctlearn.calibration.information import (
    count_information,
    decomposed_information,
    observable,
    threshold_jacobian,
)
from pcctlearn.chain import Chain
from pcctlearn.losses.likelihood import DevianceLoss, MisfitLoss
from pcctlearn.losses.stage import StageLoss, TotalLoss
from pcctlearn.scan import STAGES, Scan
from pcctlearn.tomography.linear_operator import LinearOperator

# taken before going back to the best (R. M. Chamberlain et al., 1982, "watchdog")
_UPHILL_STEPS = 2

_LEAST_BIN_keV = 1.0
_HALVINGS = 10


class ThresholdModule(LightningModule):
    """Move the thresholds of every pixel until a scan of something known comes out right.

    The loss may sit in line integrals or in images. Its gradient reaches the thresholds through
    the decomposition layer, for any optimiser of torch; ``GaussNewton`` adds the curvature.
    Pixels whose thresholds the scan does not determine are found from their information matrix,
    keep what they have, and their line integrals are taken as known.

    Args:
        chain: with per-pixel thresholds in its model, float64.
        loss: on stages of the chain.
        optimizer: ``GaussNewton``, or a torch optimizer's constructor awaiting parameters.
        within_keV: standard deviation that a threshold must be known to, at the scan's exposure,
            to be learned at all. The default is the width of the spectrum.
        step_tolerance_keV: the fit stops when no threshold moves by more.
        true_edges_keV: for the log, where they are known.
    """

    true_edges_keV: Tensor | None
    observable: Tensor | None

    def __init__(
        self,
        chain: Chain,
        loss: TotalLoss,
        optimizer: GaussNewton | Callable[[Iterable[nn.Parameter]], Optimizer],
        within_keV: float = 100.0,
        step_tolerance_keV: float = 1e-3,
        true_edges_keV: Tensor | None = None,
    ) -> None:
        super().__init__()
        if chain.decompose.model.thresholds.edges_keV.ndim != 2:
            raise ValueError(
                "thresholds are learned per pixel: give Thresholds(edges_keV, n_pixels=…)"
            )
        if STAGES.index(loss.deepest) >= STAGES.index("maps") and chain.reconstruct is None:
            raise ValueError(
                f"the loss looks at {loss.deepest}, the chain ends at the line integrals: use "
                "losses=line_integrals"
            )
        self.automatic_optimization = False
        self.chain, self.loss, self.optimizer = chain, loss, optimizer
        self.within_keV, self.step_tolerance_keV = within_keV, step_tolerance_keV
        self.register_buffer("true_edges_keV", true_edges_keV, persistent=False)
        self.register_buffer("observable", None, persistent=False)
        self.converged = False
        self.history: list[dict[str, float]] = []
        self._best: tuple[float, Tensor] | None = None
        self._uphill = 0
        self._damping = optimizer.damping if isinstance(optimizer, GaussNewton) else 0.0

    @property
    def thresholds(self) -> Any:
        """The thresholds that are learned, owned by the spectral model."""
        return self.chain.decompose.model.thresholds

    def training_step(self, target: Scan, index: int) -> None:
        """One step of the optimiser on the whole scan."""
        if self.observable is None:
            self.observable = self._find_observable(target)
            if not bool(self.observable.any()):
                raise ValueError(
                    "the scan determines the thresholds of no pixel: scan something thicker or of "
                    f"more parts, take more photons, or raise within_keV={self.within_keV:g}"
                )
        seen = self.observable[:, None]
        edges = self.thresholds.edges_keV
        if isinstance(self.optimizer, GaussNewton):
            predicted, total = self._evaluate(target)
            self._record(total, edges)
            change = self._gauss_newton(predicted, target, total)
        else:
            optimizer: Any = self.optimizers()
            before = edges.detach().clone()

            def closure() -> Tensor:
                optimizer.zero_grad()
                _, value = self._evaluate(target)
                self.manual_backward(value)
                edges.grad *= seen
                return value

            self._record(optimizer.step(closure=closure), before)
            change = edges.detach() - before
        # a short step from an uphill point, or under a raised damping, is no sign of nearness
        if change.abs().max() < self.step_tolerance_keV and self._uphill == 0:
            self._best = self._best and (self._best[0], edges.detach().clone())
            self.converged = self.trainer.should_stop = True

    def configure_optimizers(self) -> Optimizer | None:
        """None for Gauss–Newton, which keeps its own state."""
        if isinstance(self.optimizer, GaussNewton):
            return None
        return self.optimizer([self.thresholds.edges_keV])

    def on_train_epoch_end(self) -> None:
        """Keep the best thresholds seen: a last step that was not small was not looked at."""
        if self._best is not None:
            self.thresholds.assign(self._best[1])

    def _evaluate(self, target: Scan) -> tuple[Scan, Tensor]:
        assert self.observable is not None
        predicted = self.chain(target.counts, until="line_integrals")
        known = target.at("line_integrals")
        taken = torch.where(self.observable, predicted.line_integrals, known)
        predicted = self.chain.onward(
            replace(predicted, line_integrals=taken),
            until=self.loss.deepest,
            expect="expected_counts" in self.loss.stages,
        )
        return predicted, torch.stack(list(self.loss(predicted, target).values())).sum()

    def _gauss_newton(self, predicted: Scan, target: Scan, total: Tensor) -> Tensor:
        assert isinstance(self.optimizer, GaussNewton)
        assert self.observable is not None
        value, edges = float(total.detach()), self.thresholds.edges_keV
        if self._best is None and not math.isfinite(value):
            raise ValueError(
                "the loss is not finite with the thresholds to start from: check the counts, and "
                "that the thresholds lie within the spectrum"
            )
        if self._best is None or value < self._best[0] * (1 + 1e-9):
            if self._best is not None:
                self._damping /= 10
            self._best, self._uphill = (value, edges.detach().clone()), 0
        else:  # along a curved valley the next step from here is often the best one yet
            self._uphill += 1
            if self._uphill > _UPHILL_STEPS or not math.isfinite(value):
                self.thresholds.assign(self._best[1])
                self._damping = 10 * self._damping
                predicted, total = self._evaluate(target)
        (gradient,) = torch.autograd.grad(total, edges)
        rays = _rays(predicted.at("line_integrals"))
        jacobian = threshold_jacobian(self.chain.decompose.model, rays, _rays(target.at("counts")))
        learned = self.observable[:, None] & self.thresholds.learn
        moves = self._moves(rays, predicted.at("converged"))
        jacobian = jacobian * learned[:, None, :] * moves
        step = self.optimizer.step(
            jacobian, gradient * learned, self._curvature(rays, jacobian, target), self._damping
        )
        step = _in_order(edges.detach(), step * learned)
        self.thresholds.assign(edges.detach() + step)
        return step

    def _moves(self, rays: Tensor, converged: Tensor) -> Tensor:
        """1 for rays that follow the thresholds; 0 for those unsolved or at the side of the box."""
        moves = converged[0]
        if box := self.chain.decompose.bounds():
            lower, upper = rays.new_tensor(box)
            moves = moves & ((rays > lower) & (rays < upper)).all(-1)
        return moves[..., None, None]

    def _curvature(self, rays: Tensor, jacobian: Tensor, target: Scan) -> Curvature:
        """Of the sum of the loss's terms, which must be squares or likelihoods."""
        of_rays = torch.zeros(*rays.shape, rays.shape[-1]).to(rays)
        of_edges, couplings, uncoupled = None, [], of_rays
        one = torch.eye(rays.shape[-1]).to(rays)
        model = self.chain.decompose.model
        for term in self.loss.terms.values():
            if isinstance(term, MisfitLoss):
                of_rays = of_rays + target.at("precision")[0]
                uncoupled = uncoupled + target.at("precision")[0]
            elif isinstance(term, DevianceLoss):
                # what the counts tell of the edges beyond what their line integrals do
                precision = target.at("precision")[0]
                taken = torch.einsum("vpkj,vpkm,vpml->pjl", jacobian, precision, jacobian)
                learned = self.thresholds.learn.to(taken)
                all_of_it = count_information(model, rays) * learned * learned[:, None]
                of_edges = all_of_it - taken
            elif isinstance(term, StageLoss) and isinstance(term.distance, nn.MSELoss):
                scale = 2 * term.weight / target.at(term.stage).numel()
                of_rays = of_rays + scale * one
                if term.stage == "maps" and self.chain.reconstruct is not None:
                    couplings.append((scale, _linear(self.chain.reconstruct)))
                else:
                    uncoupled = uncoupled + scale * one
            else:
                raise ValueError(
                    f"Gauss–Newton needs squares or likelihoods, not {type(term).__name__}: "
                    "use torch.nn.MSELoss, or another optimiser (training=adam)"
                )
        if not couplings:
            return Curvature(of_rays, of_edges)

        def coupling(sinogram: Tensor) -> Tensor:
            image = torch.einsum("vpkm,mvp->kvp", uncoupled, sinogram)
            return image + sum(scale * (F.T @ (F @ sinogram)) for scale, F in couplings)

        return Curvature(of_rays, of_edges, coupling)

    @torch.no_grad()
    def _find_observable(self, target: Scan) -> Tensor:
        model = self.chain.decompose.model
        rays = _rays(self.chain(target.counts, until="line_integrals").line_integrals)
        jacobian = threshold_jacobian(model, rays, _rays(target.at("counts")))
        information = decomposed_information(model, rays, jacobian)
        return observable(information, self.thresholds.learn, self.within_keV)

    def _record(self, total: Tensor, edges: Tensor) -> None:
        """The loss of a step and the edges that it was found with."""
        numbers = {"loss": float(total.detach())}
        if self.true_edges_keV is not None:
            error = (edges.detach() - self.true_edges_keV)[self.observable]
            error = error[:, self.thresholds.learn]
            numbers["threshold_error_rms_keV"] = float(error.square().mean().sqrt())
            numbers["threshold_error_max_keV"] = float(error.abs().max())
        self.history.append(numbers)
        shown = ("loss", "threshold_error_max_keV")
        for name, value in numbers.items():
            self.log(name, value, prog_bar=name in shown, batch_size=1)


def _linear(reconstruct: nn.Module) -> LinearOperator:
    """The reconstruction, whose transpose Gauss–Newton needs."""
    if not isinstance(reconstruct, LinearOperator):
        raise ValueError(
            f"Gauss–Newton needs a linear reconstruction, and {type(reconstruct).__name__} is not: "
            'build it with truncation="cosine"'
        )
    return reconstruct


def _rays(channels: Tensor) -> Tensor:
    """(1, channel, view, pixel) to (view, pixel, channel)."""
    if len(channels) != 1:
        raise ValueError(f"thresholds are learned from one scan at a time, got {len(channels)}")
    return channels.detach()[0].movedim(0, -1)


def _in_order(edges: Tensor, step: Tensor) -> Tensor:
    """The step, halved for pixels whose edges it would bring closer than ``_LEAST_BIN_keV``."""
    for _ in range(_HALVINGS):
        tight = ((edges + step).diff(dim=-1) < _LEAST_BIN_keV).any(-1, keepdim=True)
        step = torch.where(tight, step / 2, step)
    return torch.where(((edges + step).diff(dim=-1) > 0).all(-1, keepdim=True), step, 0)
