"""Fit of the thresholds to the scan of a known object, with any optimizer."""

import logging
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from pcctlearn.calibration.gauss_newton import GaussNewton
from pcctlearn.calibration.thresholds import (
    Calibration,
    Iterate,
    calibrate_thresholds,
    compare,
    observable_pixels,
    require_calibratable,
)
from pcctlearn.chain import Chain
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.scan import Scan

log = logging.getLogger(__name__)

TorchOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class ThresholdModule(LightningModule):
    """Fit the thresholds of every pixel to a scan of a known object, one step per batch.

    The gradient reaches the thresholds through the decomposition. Pixels whose thresholds the scan
    does not determine keep them; their line integrals are set to the truth.

    Args:
        chain: a chain whose model has thresholds per pixel.
        loss: a loss on stages of the chain.
        optimizer: constructor that takes the parameters.
        max_sd_keV, step_tolerance_keV: as in ``calibrate_thresholds``.
    """

    def __init__(
        self,
        chain: Chain,
        loss: TotalLoss,
        optimizer: TorchOptimizer,
        max_sd_keV: float = 100.0,
        step_tolerance_keV: float = 1e-3,
    ) -> None:
        super().__init__()
        require_calibratable(chain, loss)
        self.chain, self.loss, self.optimizer = chain, loss, optimizer
        self.max_sd_keV, self.step_tolerance_keV = max_sd_keV, step_tolerance_keV
        self.observable: Tensor | None = None
        self.converged = False
        self.history: list[Iterate] = []

    @property
    def thresholds(self) -> Any:
        """The fitted thresholds of the spectral model."""
        return self.chain.decompose.model.thresholds

    def configure_optimizers(self) -> Optimizer:
        """Optimizer of the thresholds."""
        return self.optimizer([self.thresholds.edges_keV])

    def on_train_batch_start(self, target: Scan, index: int) -> None:
        """Find the observable pixels before the first step."""
        if self.observable is None:
            self.observable = observable_pixels(self.chain, target, self.max_sd_keV)
        self._n_evaluated = 0

    def training_step(self, target: Scan, index: int) -> Tensor:
        """The loss; an optimizer with a line search evaluates it several times per step."""
        assert self.observable is not None
        _, total = compare(self.chain, target, self.loss, self.observable)
        if not total.isfinite():
            raise self._diverged(f"the loss is {float(total.detach()):g}")
        self._n_evaluated += 1
        if self._n_evaluated == 1:
            edges = self.thresholds.edges_keV.detach().clone()
            self.history.append(Iterate(float(total.detach()), edges))
            self.log("loss", total, prog_bar=True, batch_size=1)
        return total

    def on_after_backward(self) -> None:
        """Set the gradient of unobservable pixels to zero."""
        assert self.observable is not None
        self.thresholds.edges_keV.grad *= self.observable[:, None]

    def on_train_batch_end(self, outputs: Any, target: Scan, index: int) -> None:
        """Check the new thresholds, and stop at the tolerance."""
        edges = self.thresholds.edges_keV.detach()
        ordered = (edges.diff(dim=-1) > 0).all(-1)  # false for NaN as well
        if not ordered.all():
            pixel = int((~ordered).nonzero()[0])
            values = ", ".join(f"{edge:.4g}" for edge in edges[pixel])
            raise self._diverged(f"the thresholds of pixel {pixel} became {values} keV")
        change = edges - self.history[-1].edges_keV
        if change.abs().max() < self.step_tolerance_keV:
            self.converged = self.trainer.should_stop = True

    def calibration(self) -> Calibration:
        """The result."""
        assert self.observable is not None
        edges = self.thresholds.edges_keV.detach().clone()
        return Calibration(edges, self.observable, self.converged, self.history)

    def _diverged(self, what: str) -> FloatingPointError:
        if not self.history:
            return FloatingPointError(f"{what} before the first step: check the counts")
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        return FloatingPointError(
            f"calibration diverged, {what} after step {len(self.history)}: lower "
            f"training.optimizer.lr, which is {optimizer.param_groups[0]['lr']:g}, or use "
            "training=gauss_newton"
        )


def fit_thresholds(
    chain: Chain,
    target: Scan,
    loss: TotalLoss,
    optimizer: GaussNewton | TorchOptimizer,
    trainer: Trainer,
    max_steps: int,
    max_sd_keV: float = 100.0,
    step_tolerance_keV: float = 1e-3,
) -> Calibration:
    """Calibrate by Gauss–Newton or a torch optimizer, on the trainer's device with its loggers.

    Arguments as in ``calibrate_thresholds``.
    """
    limits = {"max_sd_keV": max_sd_keV, "step_tolerance_keV": step_tolerance_keV}
    if isinstance(optimizer, GaussNewton):
        device, steps = trainer.strategy.root_device, count(1)

        def report(iterate: Iterate) -> None:
            step = next(steps)
            log.info("step %d: loss %.3e", step, iterate.loss)
            for logger in trainer.loggers:
                logger.log_metrics({"loss": iterate.loss}, step)

        target = move_data_to_device(target, device)
        found = calibrate_thresholds(
            chain.to(device), target, loss, optimizer, max_steps, report, **limits
        )
    else:
        module = ThresholdModule(chain, loss, optimizer, **limits)
        batches: Any = [target] * max_steps  # one scan is one batch
        trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda scan: scan))
        found = module.calibration()
    if not found.converged:
        log.warning(
            "not converged after %d steps, the results are those of the best step: raise "
            "study.max_steps",
            len(found.history),
        )
    chain.cpu()
    return move_data_to_device(found, torch.device("cpu"))
