"""Perceptron from log counts to line integrals, which knows the range that it was trained in."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcctlearn.shapes import RayCounts, RayLineIntegrals, RayMask
from pcctlearn.validation import require_positive

_LEAST_SD = 1e-6  # of log counts, before they are whitened; smaller ones are rounding
_MARGIN = 0.01  # of the training range, beyond its ends: rays there have errors as well


class ProxyNetwork(nn.Module):
    """A = offset + scale · (f(z) + B z), with whitened log counts z = (p − mean) W.

    f is a multilayer perceptron with SiLU, which is smooth, so that its derivative can be trained.
    All weights are float32.

    Args:
        n_bins, n_materials: numbers of inputs and outputs.
        widths: numbers of units of the hidden layers.
    """

    mean: Tensor
    whitening: Tensor
    z_limits: Tensor
    offset: Tensor
    scale: Tensor
    limits: Tensor

    def __init__(self, n_bins: int, n_materials: int, widths: Sequence[int] = (64, 64, 64)) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths must name at least one hidden layer, such as [64, 64, 64]")
        for width in widths:
            require_positive(n_units=width)
        self.widths = list(widths)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([n_bins, *widths]):
            layers += [nn.Linear(n_in, n_out), nn.SiLU()]
        self.perceptron = nn.Sequential(*layers, nn.Linear(widths[-1], n_materials))
        self.linear = nn.Linear(n_bins, n_materials)
        self.register_buffer("mean", torch.zeros(n_bins))
        self.register_buffer("whitening", torch.eye(n_bins))
        self.register_buffer("z_limits", torch.zeros(2, n_bins))
        self.register_buffer("offset", torch.zeros(n_materials))
        self.register_buffer("scale", torch.ones(n_materials))
        self.register_buffer("limits", torch.zeros(2, n_materials))
        self.float()  # for any default of torch

    def forward(self, log_counts: RayCounts) -> RayLineIntegrals:
        """Line integrals in g/cm² from p_b = log(air_b / n_b)."""
        z = self.whitened(log_counts)
        return self.offset + self.scale * (self.perceptron(z) + self.linear(z))

    def whitened(self, log_counts: RayCounts) -> RayCounts:
        """Log counts with zero mean and the unit matrix as covariance over the training rays."""
        return (log_counts - self.mean) @ self.whitening

    @torch.no_grad()
    def prepare(
        self, log_counts: Float[Tensor, "ray bin"], line_integrals: Float[Tensor, "ray material"]
    ) -> None:
        """Set whitening, scales and ranges to those of the training rays."""
        p = log_counts.double()
        self.mean.copy_(p.mean(0))
        variance, directions = torch.linalg.eigh((p - p.mean(0)).T.cov())
        self.whitening.copy_(directions / variance.clamp(min=_LEAST_SD**2).sqrt())
        self.z_limits.copy_(_limits(self.whitened(log_counts)))
        self.offset.copy_(line_integrals.mean(0))
        self.scale.copy_(line_integrals.std(0))
        self.limits.copy_(_limits(line_integrals))

    def within(
        self, log_counts: RayCounts, line_integrals: RayLineIntegrals
    ) -> tuple[RayMask, RayMask]:
        """Rays whose log counts, and whose line integrals, are within those of the training."""
        z = self.whitened(log_counts)
        return tuple(
            ((values >= low) & (values <= high)).all(-1)
            for values, (low, high) in ((z, self.z_limits), (line_integrals, self.limits))
        )


def _limits(values: Float[Tensor, "ray value"]) -> Float[Tensor, "2 value"]:
    """Least and greatest values, and a margin."""
    low, high = values.aminmax(dim=0)
    margin = _MARGIN * (high - low)
    return torch.stack([low - margin, high + margin])
