"""Training of a proxy: a network that reproduces the maximum-likelihood decomposition."""

import math
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SequentialSampler

from pcctlearn.decomposition.proxy_network import ProxyNetwork
from pcctlearn.losses.sobolev import SobolevLoss, SobolevTarget
from pcctlearn.physics.noise import generator_of
from pcctlearn.training.proxy_rays import ProxyRays, RaySet
from pcctlearn.validation import require_positive

_VALIDATION_SHARE = 0.1  # rays for validation, relative to those for training


class ProxyModule(LightningModule):
    """Train a network with a Sobolev loss.

    Args:
        network: the network, prepared for the training rays.
        loss: a Sobolev loss.
        optimizer: constructor that takes the parameters.
        scheduler: constructor that takes the optimizer, stepped after each epoch; or ``None``.
    """

    def __init__(
        self,
        network: ProxyNetwork,
        loss: SobolevLoss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], Any] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.loss = network, loss
        self.optimizer, self.scheduler = optimizer, scheduler

    def configure_optimizers(self) -> Any:
        """Optimizer of all weights."""
        optimizer = self.optimizer(self.network.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def training_step(self, target: SobolevTarget, index: int) -> Tensor:
        """The loss of one batch."""
        return self._step(target, "train")

    def validation_step(self, target: SobolevTarget, index: int) -> Tensor:
        """The loss of one validation batch."""
        return self._step(target, "val")

    def _step(self, target: SobolevTarget, name: str) -> Tensor:
        terms = self.loss(self.network, target)
        total = torch.stack(list(terms.values())).sum()
        if not math.isfinite(float(total.detach())):
            raise FloatingPointError(
                f"training diverged, the {name} loss is {float(total.detach()):g} after step "
                f"{self.global_step}: lower training.optimizer.lr"
            )
        logged = {f"{name}/{term}": value.detach() for term, value in terms.items()}
        self.log_dict(
            {**logged, f"{name}/loss": total.detach()}, on_step=False, on_epoch=True,
            batch_size=len(target.log_counts),
        )  # fmt: skip
        return total


class FittedProxy(NamedTuple):
    """A trained network, and numbers of its training."""

    network: ProxyNetwork
    numbers: dict[str, float]


def fit_proxy(
    rays: ProxyRays,
    loss: SobolevLoss,
    trainer: Trainer,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    scheduler: Callable[[Optimizer], Any] | None = None,
    widths: Sequence[int] = (64, 64),
    n_rays: int = 200_000,
    n_batch: int = 1024,
    clean_share: float = 0.5,
    thin_share: float = 0.5,
    seed: int = 0,
) -> FittedProxy:
    """Train a network on rays of a scanner; the weights of the best validation loss are kept.

    Args:
        rays: draws the rays for training and validation.
        loss: a Sobolev loss of the same materials.
        trainer: Lightning's trainer.
        optimizer, scheduler: as in ``ProxyModule``.
        widths: units of the hidden layers.
        n_rays, n_batch: numbers of rays for training and in a batch.
        clean_share: share of rays without noise and scatter.
        thin_share: share of rays near the lower limits of the box, where the decomposition is most
            nonlinear.
        seed: seed of rays and weights.
    """
    require_positive(n_rays=n_rays, n_batch=n_batch)
    shares = {"clean_share": clean_share, "thin_share": thin_share}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must lie in 0 … 1, got {share}")
    if loss.materials != rays.materials:
        raise ValueError(
            f"the loss has tolerances for {', '.join(loss.materials)}, the scanner the materials "
            f"{', '.join(rays.materials)}: set losses.value_tolerance_g_cm2 for these"
        )
    began = perf_counter()
    train = rays.draw(n_rays, generator_of(seed, "proxy training"), **shares)
    n_val = max(1, round(_VALIDATION_SHARE * n_rays))
    val = rays.draw(n_val, generator_of(seed, "proxy validation"), **shares)
    torch.manual_seed(seed)
    network = ProxyNetwork(train.log_counts.shape[-1], len(rays.materials), widths)
    network.prepare(train.log_counts, train.line_integrals)
    module = ProxyModule(network, loss, optimizer, scheduler)
    order = RandomSampler(RaySet(train), generator=generator_of(seed, "proxy batches"))
    trainer.fit(
        module, _loader(train, order, n_batch), _loader(val, SequentialSampler(RaySet(val)), n_val)
    )
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        module.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
    score = getattr(trainer.checkpoint_callback, "best_model_score", None)
    val_loss = trainer.callback_metrics["val/loss"] if score is None else score
    return FittedProxy(
        network.cpu().eval(),
        {
            "val_loss": float(val_loss),
            "epochs": float(trainer.current_epoch),
            "training_seconds": perf_counter() - began,
        },
    )


def _loader(target: SobolevTarget, order: Sampler[int], n_batch: int) -> DataLoader:
    batches = BatchSampler(order, n_batch, drop_last=False)
    return DataLoader(RaySet(target), sampler=batches, batch_size=None)
