"""The likelihood of counts behind known materials, as a sum of losses on two stages.

To second order L(A_true) = L(A*) + ½ (A* − A_true)ᵀ I (A* − A_true), with the decomposed line
integrals A*: the deviance at the minimum plus the misfit of the line integrals. The deviance
contains the information of the bins that the line integrals lose.
"""

import torch
from torch import Tensor

from pcctlearn.decomposition.sensitivity import count_information
from pcctlearn.losses.curvature import Curvature, Linearisation
from pcctlearn.losses.stage import Loss
from pcctlearn.scan import Scan
from pcctlearn.shapes import channels_last


class MisfitLoss(Loss):
    """½ Σ_rays (A − A_true)ᵀ I (A − A_true), with the Fisher information I of each ray."""

    stage = "line_integrals"

    def forward(self, predicted: Scan, target: Scan) -> Tensor:
        """Half the squared misfit in units of its own standard deviation."""
        r = channels_last(predicted.at("line_integrals") - target.at("line_integrals"))
        return 0.5 * torch.einsum("...k,...km,...m->", r, target.at("precision"), r)

    def curvature(self, at: Linearisation) -> Curvature:
        """∂²/∂A² = I."""
        return Curvature(at.target.at("precision")[0])


class DevianceLoss(Loss):
    """Σ_rays Σ_b [ȳ_b(A*) − n_b + n_b log(n_b/ȳ_b(A*))], at the decomposed line integrals A*."""

    stage = "expected_counts"

    def forward(self, predicted: Scan, target: Scan) -> Tensor:
        """Half the deviance of the counts."""
        return _half_deviance(target.at("counts"), predicted.at("expected_counts")).sum()

    def curvature(self, at: Linearisation) -> Curvature:
        """Σ_rays (Iᴰ − Jᵀ I J), with J = dA/dD.

        Iᴰ is the Fisher information of the counts on the thresholds for known line integrals.
        """
        model, J, precision = at.chain.decompose.model, at.jacobian, at.target.at("precision")[0]
        learn = model.thresholds.learn
        of_counts = count_information(model, at.rays)
        of_rays = torch.einsum("vpkj,vpkm,vpml->pjl", J, precision, J)
        return Curvature(torch.zeros_like(precision), of_counts * learn * learn[:, None] - of_rays)


class ScanDevianceLoss(Loss):
    """How badly two materials and the estimated scatter explain the counts of the scan itself.

    weight · mean over rays of Σ_b [m_b − y_b + y_b log(y_b/m_b)], with m = ȳ(A*) + s for measured
    counts y, scatter s and the line integrals A* decomposed from y − s. With more bins than
    materials, wrong scatter leaves a deviance that no line integrals can remove. The least mean is
    (n_bins − n_materials)/2, for many counts. No reference is compared with. Other errors of the
    model, such as wrong thresholds, raise the deviance too, and are mistaken for scatter.
    """

    stage = "expected_counts"
    compares = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, predicted: Scan, target: Scan) -> Tensor:
        """Half the deviance of a ray of the predicted scan."""
        y = predicted.at("counts")
        mean = predicted.at("expected_counts") + y * predicted.at("scatter_fraction")
        return self.weight * _half_deviance(y, mean).sum(1).mean()


def _half_deviance(n: Tensor, mean: Tensor) -> Tensor:
    """Element-wise ȳ − n + n log(n/ȳ) of counts n with mean ȳ."""
    # two terms, because the derivative of xlogy(n, n/ȳ) is 0/0 at n = 0
    return mean - n - torch.xlogy(n, mean) + torch.xlogy(n, n)
