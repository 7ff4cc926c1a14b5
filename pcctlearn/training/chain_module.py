"""Training of the scatter correction of a chain with a loss on any stage."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from pcctlearn.chain import Chain
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.scan import STAGES, Scan


class ChainModule(LightningModule):
    """Train the scatter correction of a chain.

    The chain runs up to the deepest stage that the loss compares. Targets at that stage come from
    the scatter-free counts, passed through the same chain once.

    Args:
        chain: a chain whose correction has parameters.
        loss: a loss on stages of the chain.
        optimizer: constructor that takes the parameters.
        scheduler: constructor that takes the optimizer, stepped after each epoch; or ``None``.
        n_gradient_views: number of views with gradients, drawn at random in each step. The other
            views enter the loss without gradients and need no memory for them. ``None``: all.
        notes: {name: plain value}, stored in checkpoints beside the weights.
    """

    def __init__(
        self,
        chain: Chain,
        loss: TotalLoss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], Any] | None = None,
        n_gradient_views: int | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if chain.correct is None:
            raise ValueError(
                "a chain without a correction has nothing to learn: use scatter=network"
            )
        if n_gradient_views is not None and n_gradient_views < 1:
            raise ValueError(f"training.n_gradient_views must be 1 or more, got {n_gradient_views}")
        self.chain, self.loss = chain, loss
        self.optimizer, self.scheduler = optimizer, scheduler
        self.n_gradient_views, self.notes = n_gradient_views, dict(notes or {})

    def configure_optimizers(self) -> Any:
        """Optimizer of the parameters of the correction."""
        assert self.chain.correct is not None
        optimizer = self.optimizer(self.chain.correct.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the notes beside the weights."""
        checkpoint.update(self.notes)

    def training_step(self, target: Scan, index: int) -> Tensor:
        """The loss of one batch."""
        return self._step(target, "train")

    def validation_step(self, target: Scan, index: int) -> Tensor:
        """The loss of one validation batch."""
        return self._step(target, "val")

    def _step(self, target: Scan, name: str) -> Tensor:
        predicted = self._predicted(target.at("counts"), name == "train")
        terms = self.loss(predicted, target)
        total = torch.stack(list(terms.values())).sum()
        if not bool(total.isfinite()):
            raise self._diverged(f"the {name} loss is {float(total.detach()):g}")
        logged = {f"{name}/{term}": value for term, value in terms.items()} | {
            f"{name}/loss": total
        }
        on_step = name == "train"
        self.log_dict(
            logged, on_step=on_step, on_epoch=True, batch_size=len(target.at("counts")),
            prog_bar=False,
        )  # fmt: skip
        return total

    def _predicted(self, counts: Tensor, learns: bool) -> Scan:
        n_views, expect = counts.shape[2], self.loss.expects
        if not learns or self.n_gradient_views is None or self.n_gradient_views >= n_views:
            return self._through(counts, self.loss.deepest, expect)
        few = torch.randperm(n_views, device=counts.device)[: self.n_gradient_views]
        by_view = min(self.loss.deepest, "line_integrals", key=STAGES.index)
        correct = self.chain.correct
        assert correct is not None
        with torch.no_grad():
            correct.eval()  # running statistics are those of the gradient views
            whole = self._through(counts, by_view)
            correct.train()
        part = self._through(counts[:, :, few], by_view)
        joined = {
            name: values.index_copy(1 if name == "converged" else 2, few, part.at(name))
            for name, values in vars(whole).items()
            if values is not None and name != "counts"
        }
        return self.chain.resume(replace(whole, **joined), self.loss.deepest, expect)

    def _through(self, counts: Tensor, until: str, expect: bool = False) -> Scan:
        """Run the chain; the output of the correction is checked before the decomposition."""
        corrected = min(until, "corrected_counts", key=STAGES.index)
        scan = self.chain(counts, until=corrected)
        values, least = scan.at(corrected), 0.0 if corrected == "corrected_counts" else -math.inf
        if not bool((values.isfinite() & (values >= least)).all()):
            raise self._diverged(f"{corrected.replace('_', ' ')} out of range")
        return self.chain.resume(scan, until, expect)

    def _diverged(self, what: str) -> FloatingPointError:
        step = self.trainer.global_step
        if step == 0:
            return FloatingPointError(f"{what} before the first step of training: check the scans")
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        return FloatingPointError(
            f"training diverged, {what} after step {step}: lower training.optimizer.lr, which is "
            f"{optimizer.param_groups[0]['lr']:g} at this step"
        )


@torch.no_grad()
def with_truth(scan: Scan, chain: Chain, until: str, expect: bool = False) -> Scan:
    """A scan with known scatter-free counts, passed through the chain up to a stage."""
    scan.at("corrected_counts")
    return chain.resume(scan, until, expect)
