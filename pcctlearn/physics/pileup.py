"""Pulse pile-up: counts that a counter loses in its dead time, and how to correct for them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.shapes import RayCounts, RayMask
from pcctlearn.validation import require_positive

Rate = Float[Tensor, "*rate"]
_MOST_STEPS = 100
_DIGITS = 1e-14  # relative change of the last step
_LEAST_SLOPE = 1e-6  # of the curve, relative to that of a counter without dead time


class TrueRate(NamedTuple):
    """True rates in 1/s, and where the registered ones lie below the maximum of the curve."""

    rate: Rate
    resolved: Bool[Tensor, "*rate"]


def registered_rate(true: Rate, paralysable_s: Tensor, nonparalysable_s: Tensor) -> Rate:
    """m = n exp(−n τ_p)/(1 + n τ_n), in 1/s, of a counter with two dead times [2, eq. 44].

    Without τ_n a pulse that arrives in the dead time of another extends it (paralysable counter);
    without τ_p it is ignored (nonparalysable).

    Args:
        true: n, rate of the pulses that a counter without dead time counts.
        paralysable_s: τ_p.
        nonparalysable_s: τ_n.
    """
    return true * torch.exp(-true * paralysable_s) / (1 + true * nonparalysable_s)


def greatest_rate(paralysable_s: Tensor, nonparalysable_s: Tensor) -> Tensor:
    """The true rate n* at which the registered rate is greatest, infinite without τ_p.

    n* = (−τ_p + √(τ_p² + 4 τ_p τ_n))/(2 τ_p τ_n) = 2/(τ_p + √(τ_p² + 4 τ_p τ_n)).
    """
    return 2 / (paralysable_s + (paralysable_s * (paralysable_s + 4 * nonparalysable_s)).sqrt())


def true_rate(registered: Rate, paralysable_s: Tensor, nonparalysable_s: Tensor) -> TrueRate:
    """The true rate below n* with this registered rate, differentiable in all three.

    f(n) = ln n − n τ_p − ln(1 + n τ_n) − ln m is concave below its maximum n*, so that Newton's
    method from n = m approaches the root from below without overshooting. The derivative is that
    of the implicit function. Where m exceeds the greatest registered rate, or comes so close to it
    that the curve is flat, the rate is n* without a gradient, and is not resolved.

    Args:
        registered: m, in 1/s; zero stays zero.
        paralysable_s, nonparalysable_s: τ_p and τ_n.
    """
    m, tp, tn = torch.broadcast_tensors(registered, paralysable_s, nonparalysable_s)
    with torch.no_grad():
        top = greatest_rate(tp, tn)
        most = torch.where(tp > 0, registered_rate(top.clamp(max=1e300), tp, tn), 1 / tn)
        counted = (m > 0) & (m < most)
        n = torch.where(counted, m, 1.0)
        for _ in range(_MOST_STEPS):
            excess, slope = _excess(n, m.where(counted, n), tp, tn), _slope(n, tp, tn)
            step = torch.where(counted & (slope > 0), -excess / slope, 0.0).clamp(min=0)
            n = torch.minimum(n + step, top)
            if bool((step <= _DIGITS * n).all()):
                break
        slope = _slope(n, tp, tn)
        counted = counted & (n * slope >= _LEAST_SLOPE)
    # the last step of Newton's method has the derivative of the root
    root = n - _excess(n, m.where(counted, n), tp, tn) / slope.where(counted, 1.0)
    other = torch.where(m <= 0, 0.0, torch.where(m.isnan(), m.detach(), top))
    return TrueRate(root.where(counted, other.to(root)), counted | (m == 0))


def _excess(n: Rate, m: Rate, tp: Tensor, tn: Tensor) -> Rate:
    """ln n − n τ_p − ln(1 + n τ_n) − ln m."""
    return (n / m).log() - n * tp - torch.log1p(n * tn)


def _slope(n: Rate, tp: Tensor, tn: Tensor) -> Rate:
    """Its derivative in n, zero at n*."""
    return 1 / n - tp - tn / (1 + n * tn)


class LogSlopes(NamedTuple):
    """Derivatives of ln m in the true rate n, in τ = τ_p + τ_n, and in q = τ_n²."""

    rate: Rate
    sum_s: Rate
    square_s2: Rate


def log_slopes(true: Rate, paralysable_s: Tensor, nonparalysable_s: Tensor) -> LogSlopes:
    """∂ln m/∂n = 1/n − τ_p − τ_n/(1 + n τ_n), ∂ln m/∂τ = −n, ∂ln m/∂q = n²/(2 (1 + n τ_n)).

    ln m = ln n − n τ + n² q/2 − … is regular in τ and q. In τ_p and τ_n it is not: the derivatives
    in both are the same at τ_n = 0. The rate of a given m has ∂n/∂τ = −(∂ln m/∂τ)/(∂ln m/∂n).
    """
    n, tp, tn = true, paralysable_s, nonparalysable_s
    return LogSlopes(_slope(n, tp, tn), -n, n**2 / (2 * (1 + n * tn)))


class PileUp(nn.Module):
    """Pile-up in the counters of a detector, one for each threshold, and its correction.

    The counter of a threshold counts the photons registered above it; its dead times depend on the
    threshold. Bins are differences of counts above thresholds. A macro pixel whose counts are the
    sum of several counters has the dead time of one counter, divided by their number.

    Args:
        paralysable_s, nonparalysable_s: τ_p and τ_n of the counter of each threshold, for all
            pixels (threshold) or each (*pixel, threshold); learnable.
        time_s: counting time of a view.
    """

    def __init__(
        self,
        paralysable_s: Sequence[int | float] | Tensor,
        nonparalysable_s: Sequence[int | float] | Tensor,
        time_s: float,
    ) -> None:
        super().__init__()
        require_positive(time_s=time_s)
        times = []
        for name, value in (
            ("paralysable_s", paralysable_s),
            ("nonparalysable_s", nonparalysable_s),
        ):
            tensor = torch.as_tensor(value, dtype=torch.float64).clone()
            if not (tensor.isfinite().all() and (tensor >= 0).all() and (tensor < time_s).all()):
                raise ValueError(
                    f"{name} must lie from 0 to the counting time of {time_s:g} s, got "
                    f"{tensor.tolist() if tensor.ndim < 2 else 'other values'}: give dead times in "
                    "seconds, such as 4e-7"
                )
            times.append(nn.Parameter(tensor))
        self.paralysable_s, self.nonparalysable_s = times
        self.time_s = time_s
        for dead_times in times[1:]:
            self.require_thresholds(dead_times.shape[-1])

    def require_thresholds(self, n_thresholds: int) -> None:
        """Raise ValueError unless there is a pair of dead times for each threshold."""
        n = self.paralysable_s.shape[-1], self.nonparalysable_s.shape[-1]
        if n != (n_thresholds, n_thresholds):
            raise ValueError(
                f"there are {n[0]} paralysable and {n[1]} nonparalysable dead times for "
                f"{n_thresholds} thresholds: give one of each for every threshold, such as "
                f"paralysable_s={[5e-9] * n_thresholds} nonparalysable_s={[0.0] * n_thresholds}"
            )

    def forward(self, counts: RayCounts) -> RayCounts:
        """Counts in bins that are registered if counters without dead time would count these."""
        self.require_thresholds(counts.shape[-1])
        true = above_from_bins(counts.double()) / self.time_s
        registered = registered_rate(true, self.paralysable_s, self.nonparalysable_s)
        return bins_from_above(registered * self.time_s).to(counts)

    def corrected(self, counts: RayCounts) -> tuple[RayCounts, RayMask]:
        """Counts in bins of counters without dead time, and the rays whose rates are resolved.

        Rays with a rate beyond the maximum of the curve have the counts of the maximum. A bin may
        become negative by noise where the dead times of its two thresholds differ; it is then zero.
        """
        self.require_thresholds(counts.shape[-1])
        registered = above_from_bins(counts.double()) / self.time_s
        true, resolved = true_rate(registered, self.paralysable_s, self.nonparalysable_s)
        bins = bins_from_above(true * self.time_s).clamp(min=0)
        return bins.to(counts), resolved.all(-1)
