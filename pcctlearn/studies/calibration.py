"""What the threshold studies share: the scan of a biased detector, and the course of its fit."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from pcctlearn.calibration.thresholds import Calibration
from pcctlearn.scan import Scan
from pcctlearn.shapes import Edges


@dataclass(frozen=True)
class BiasedScan:
    """Scan of a known object by a detector whose true thresholds are not the nominal ones."""

    nominal_keV: Edges
    true_keV: Edges
    target: Scan


def biased(edges_keV: Edges, learn: Bool[Tensor, "edge"], bias_keV: Tensor | float) -> Edges:
    """Edges with a bias on the learned ones; the others carry no information."""
    return edges_keV + torch.where(learn, bias_keV, 0.0)


def check_steps(max_steps: int) -> None:
    """Raise ValueError for a study without a step."""
    if max_steps < 1:
        raise ValueError(f"max_steps must be 1 or more, got {max_steps}")


def calibration_arrays(
    scan: BiasedScan, found: Calibration, learn: Bool[Tensor, "edge"]
) -> dict[str, Tensor]:
    """Edges; loss and errors of the learned edges of observable pixels at each step."""
    tried = torch.stack([iterate.edges_keV for iterate in found.history])
    errors = (tried - scan.true_keV)[:, found.observable][..., learn].flatten(1)
    return {
        "edges/true_keV": scan.true_keV,
        "edges/nominal_keV": scan.nominal_keV,
        "edges/found_keV": found.edges_keV,
        "history/loss": torch.tensor([it.loss for it in found.history], dtype=torch.float64),
        "history/threshold_error_rms_keV": errors.square().mean(1).sqrt(),
        "history/threshold_error_max_keV": errors.abs().amax(1),
    }
