"""The likelihood of counts behind known materials, told apart into two stages of the chain.

To second order L(A_true) = L(A*) + ½ (A* − A_true)ᵀ I (A* − A_true): the deviance that the
decomposition leaves, and the misfit of what it found. The first holds what the bins say beyond
the line integrals, so that both together use all of the counts.
"""

import torch
from torch import Tensor, nn

from pcctlearn.scan import Scan


class MisfitLoss(nn.Module):
    """½ Σ_rays (A − A_true)ᵀ I (A − A_true), with the Fisher information I of each ray."""

    stage = "line_integrals"

    def forward(self, predicted: Scan, target: Scan) -> Tensor:
        """Half the squared misfit in units of its own standard deviation."""
        r = (predicted.at("line_integrals") - target.at("line_integrals")).movedim(1, -1)
        return 0.5 * torch.einsum("...k,...km,...m->", r, target.at("precision"), r)


class DevianceLoss(nn.Module):
    """Σ_rays Σ_b [ȳ_b(A*) − n_b + n_b log(n_b/ȳ_b(A*))]: what no line integral can explain."""

    stage = "expected_counts"

    def forward(self, predicted: Scan, target: Scan) -> Tensor:
        """Half the deviance of the counts at the decomposition's own minimum."""
        mean, n = predicted.at("expected_counts"), target.at("counts")
        # log ȳ apart: the derivative of xlogy(n, n/ȳ) is 0/0 where nothing was counted
        return (mean - n - torch.xlogy(n, mean) + torch.xlogy(n, n)).sum()
