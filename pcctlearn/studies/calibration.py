"""Shared by the threshold studies: the scan of a biased detector, and the history of the fit."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from pcctlearn.calibration.thresholds import Calibration
from pcctlearn.scan import Scan
from pcctlearn.shapes import Edges


@dataclass(frozen=True)
class BiasedScan:
    """Scan of a known object by a detector whose true thresholds differ from the nominal ones."""

    nominal_keV: Edges
    true_keV: Edges
    target: Scan


def biased(edges_keV: Edges, learn: Bool[Tensor, "edge"], bias_keV: Tensor | float) -> Edges:
    """Edges with a bias added to the learned ones."""
    return edges_keV + torch.where(learn, bias_keV, 0.0)


def calibration_arrays(
    scan: BiasedScan, found: Calibration, learn: Bool[Tensor, "edge"]
) -> dict[str, Tensor]:
    """Edges, and at each step the loss and the errors of observable pixels' learned edges."""
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
