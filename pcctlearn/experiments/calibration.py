"""What the threshold studies share: detectors with given edges, and the fit."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.scan import Scan
from pcctlearn.shapes import Edges
from pcctlearn.training.threshold_module import ThresholdModule

log = logging.getLogger(__name__)


def with_edges(model: SpectralModel, edges_keV: Edges) -> SpectralModel:
    """The same scanner with other thresholds, of one pixel or of many."""
    other = copy.deepcopy(model)
    learn = [bool(one) for one in model.thresholds.learn]
    other.thresholds = Thresholds(edges_keV.detach(), learn=learn)
    return other


def biased(edges_keV: Edges, learn: Tensor, bias_keV: Tensor | float) -> Edges:
    """Edges with a bias on those that can be off: the fixed ones carry no information."""
    return edges_keV + torch.where(learn, bias_keV, 0.0)


def channels_first(rays: Tensor) -> Tensor:
    """(view, *pixel, channel) to (1, channel, view, *pixel)."""
    return rays.movedim(-1, 0)[None]


def check_materials(model: SpectralModel, materials: Sequence[str]) -> None:
    """The basis materials must be those that the study's object is made of, in its order."""
    if list(model.materials) != list(materials):
        wanted = ",".join(materials)
        raise ValueError(
            f"this study needs the basis materials {wanted}, got {','.join(model.materials)}: use "
            f"physics.materials=[{wanted}]"
        )


def check_steps(max_steps: int) -> None:
    """A study without a step has nothing to show."""
    if max_steps < 1:
        raise ValueError(f"max_steps must be 1 or more, got {max_steps}")


def fit(trainer: Trainer, module: ThresholdModule, target: Scan, max_steps: int) -> None:
    """Take up to ``max_steps`` steps, each on the whole scan."""
    loader: Any = DataLoader([target] * max_steps, batch_size=None, collate_fn=lambda scan: scan)  # type: ignore[arg-type]
    trainer.fit(module, loader)
    if module.converged:
        log.info("calibrated in %d steps", len(module.history))
    else:
        log.warning(
            "not converged after %d steps: raise study.max_steps, the results are those of the "
            "best step",
            len(module.history),
        )


def history_arrays(module: ThresholdModule) -> dict[str, Tensor]:
    """Loss and threshold errors of every step."""
    return {
        f"history/{name}": torch.tensor([row[name] for row in module.history], dtype=torch.float64)
        for name in module.history[0]
    }
