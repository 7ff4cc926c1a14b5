"""The chain learned from scans: any loss on any stage."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from pcctlearn.chain import Chain
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.scan import Scan


class ChainModule(LightningModule):
    """Learn what the chain's correction estimates, from the stages that the loss looks at.

    Nothing but the loss decides how deep a step goes. What the truth of a deeper stage is follows
    from the scan's scatter-free counts, taken once through the same chain.

    Args:
        chain: with a correction that learns.
        loss: on stages of the chain.
        optimizer: constructor awaiting parameters.
        scheduler: constructor awaiting the optimizer, stepped after each epoch; or ``None``.
    """

    def __init__(
        self,
        chain: Chain,
        loss: TotalLoss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], Any] | None = None,
    ) -> None:
        super().__init__()
        if chain.correct is None:
            raise ValueError("there is nothing to learn in a chain without a correction")
        self.chain, self.loss = chain, loss
        self.optimizer, self.scheduler = optimizer, scheduler

    def configure_optimizers(self) -> Any:
        """The correction's parameters alone are learned."""
        assert self.chain.correct is not None
        optimizer = self.optimizer(self.chain.correct.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def training_step(self, target: Scan, index: int) -> Tensor:
        """The loss of one batch."""
        return self._step(target, "train")

    def validation_step(self, target: Scan, index: int) -> Tensor:
        """The loss of one batch that is not learned from."""
        return self._step(target, "val")

    def _step(self, target: Scan, name: str) -> Tensor:
        predicted = self.chain(target.at("counts"), until=self.loss.deepest)
        terms = self.loss(predicted, target)
        total = torch.stack(list(terms.values())).sum()
        logged = {f"{name}/{term}": value for term, value in terms.items()} | {
            f"{name}/loss": total
        }
        on_step = name == "train"
        self.log_dict(
            logged, on_step=on_step, on_epoch=True, batch_size=len(target.at("counts")),
            prog_bar=False,
        )  # fmt: skip
        return total


@torch.no_grad()
def with_truth(scan: Scan, chain: Chain, until: str) -> Scan:
    """A scan with its scatter-free counts, which it holds, taken through the chain to a stage."""
    scan.at("corrected_counts")
    return chain.onward(scan, until)
