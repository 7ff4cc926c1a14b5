"""A small cone-beam scan with a scattered fraction that can be learned."""

import torch
from support.scanners import scanner

from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.losses.stage import StageLoss, TotalLoss
from pcctlearn.scan import Scan
from pcctlearn.scatter.base import ScatterCorrection
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

BEAM = ConeBeam(8, 4, 6, 4.0, 62.5, 109.7)
FRACTION = 0.1


class OneFraction(ScatterCorrection):
    """A learnable fraction that is the same everywhere."""

    def __init__(self):
        super().__init__()
        self.fraction = torch.nn.Parameter(torch.zeros(1))

    def forward(self, counts):
        return self.fraction.expand_as(counts)


def problem():
    model = scanner(every=4)
    model.thresholds.requires_grad_(False)
    A = torch.zeros(*BEAM.shape, 2)
    A[..., 1:5, 0], A[..., 2:4, 1] = 12.0, 0.5
    primary = model(A).detach().movedim(-1, 0)
    scan = Scan(
        counts=primary / (1 - FRACTION),
        scatter_fraction=torch.full_like(primary, FRACTION),
        corrected_counts=primary,
    )
    chain = Chain(
        MaximumLikelihood(model),
        fbp(BEAM, VolumeGrid(6, 8, 8, 1.5)).double(),
        correct=OneFraction(),
    )
    return chain, scan, A


def l1(stage):
    return TotalLoss({stage: StageLoss(stage, torch.nn.L1Loss())})
