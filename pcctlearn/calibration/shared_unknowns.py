"""What all pixels of a detector share: dead times of their counters, an amplitude of scatter."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.pileup import log_slopes
from pcctlearn.shapes import RayCounts

_NS = 1e-9

Vector = Float[Tensor, "shared"]


class DeadTimePair(NamedTuple):
    """τ_p and τ_n of the counter of each threshold, in s."""

    paralysable_s: Float[Tensor, "threshold"]
    nonparalysable_s: Float[Tensor, "threshold"]


@dataclass(frozen=True)
class SharedUnknowns:
    """Names and order of the unknowns that all pixels share.

    τ = τ_p + τ_n in ns, for all thresholds or for each, then q = τ_n² in ns², then the amplitude of
    the scatter, if its shape is known. A nonparalysable dead time follows a count and belongs to
    the logic behind the discriminators: it is the same for all thresholds. A paralysable one is the
    time that a pulse spends above the threshold, which depends on it.

    Args:
        thresholds_keV: nominal ones.
        each_threshold: a τ of its own for each threshold.
        scatter: whether there is an amplitude.
    """

    thresholds_keV: tuple[float, ...]
    each_threshold: bool = True
    scatter: bool = True

    @property
    def n_times(self) -> int:
        """Number of τ."""
        return len(self.thresholds_keV) if self.each_threshold else 1

    @property
    def square(self) -> int:
        """Index of q."""
        return self.n_times

    @property
    def n_shared(self) -> int:
        """Number of unknowns."""
        return self.n_times + 1 + self.scatter

    def names(self) -> list[str]:
        """A name for each unknown, with its unit."""
        if self.each_threshold:
            times = [f"dead time above {keV:g} keV (ns)" for keV in self.thresholds_keV]
        else:
            times = ["dead time (ns)"]
        return [
            *times,
            "nonparalysable dead time squared (ns²)",
            *["scatter amplitude"][: self.scatter],
        ]

    def start(self, amplitude: float) -> Vector:
        """No dead time, and this amplitude."""
        times = [0.0] * (self.n_times + 1)
        return torch.tensor([*times, *[amplitude][: self.scatter]], dtype=torch.float64)

    def projected(self, shared: Vector) -> Vector:
        """None of them is negative, and one threshold at least has q < τ²."""
        shared = shared.clamp(min=0)
        most = 0.99 * shared[: self.n_times].max() ** 2
        q = shared[self.square : self.square + 1].clamp(max=most)
        return torch.cat([shared[: self.n_times], q, shared[self.square + 1 :]])

    def dead_times(self, shared: Vector) -> DeadTimePair:
        """τ_p and τ_n of every threshold; where q > τ² all of τ is nonparalysable."""
        tau = _NS * shared[: self.n_times].expand(len(self.thresholds_keV))
        tn = torch.minimum(_NS * shared[self.square].sqrt().expand_as(tau), tau)
        return DeadTimePair(tau - tn, tn)

    def amplitude(self, shared: Vector) -> Float[Tensor, ""]:
        """Of the scatter; zero where its shape is unknown."""
        return shared[-1] if self.scatter else shared.new_zeros(())

    def log_registered(
        self, rate: RayCounts, pair: DeadTimePair
    ) -> tuple[RayCounts, Float[Tensor, "*ray bin time"]]:
        """∂ln m/∂n of counters with this true rate n, and ∂ln m/∂(τ, q)."""
        slopes = log_slopes(rate, *pair)
        tp, tn = pair
        limited = (tp <= 0) & (tn > 0)  # all of τ is nonparalysable: q is τ²
        by_tau = _NS * (slopes.sum_s + torch.where(limited, 2 * tn, 0.0) * slopes.square_s2)
        by_q = _NS**2 * torch.where(limited, 0.0, slopes.square_s2)[..., None]
        by_tau = by_tau[..., None]
        if self.each_threshold:
            by_tau = by_tau * torch.eye(rate.shape[-1], dtype=rate.dtype)
        return slopes.rate, torch.cat([by_tau, by_q], -1)
