"""Dead times of the counters from counts at several tube currents."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from pcctlearn.physics.pileup import PileUp, TrueRate, true_rate
from pcctlearn.solvers.levenberg_marquardt import LevenbergMarquardt, Residuals

_FALLS = 5.0  # standard deviations, by which the rate of a broken counter falls
_ODD, _LEAST_CHANCE = 20.0, 1e-9  # χ² of a pixel unlike the others: over their median, and chance
_LEAST_CURRENTS = 4  # three unknowns, and one to see whether they fit
_START = torch.tensor([0.05, 0.025, 0.025], dtype=torch.float64)


@dataclass(frozen=True)
class CurrentSeries:
    """Counts above thresholds at several tube currents, with the same beam otherwise.

    Args:
        current_mA: increasing.
        counts: photons registered above each threshold; NaN or 0 in all currents for dead pixels.
        time_s: counting time at each current.
        thresholds_keV: nominal ones, increasing.

    Raises:
        ValueError: arrays that do not fit together, currents that do not increase, counts that do
            not rise with the current.
    """

    current_mA: Float[Tensor, "current"]
    counts: Float[Tensor, "current *pixel threshold"]
    time_s: Float[Tensor, "current"]
    thresholds_keV: Float[Tensor, "threshold"]

    def __post_init__(self) -> None:
        n, n_thresholds = len(self.current_mA), len(self.thresholds_keV)
        if self.counts.shape[0] != n or self.time_s.shape != (n,):
            raise ValueError(
                f"there are {n} currents, {self.counts.shape[0]} exposures and {len(self.time_s)} "
                "times: give the counts and the counting time of every current, in order"
            )
        if self.counts.shape[-1] != n_thresholds:
            raise ValueError(
                f"counts have {self.counts.shape[-1]} thresholds, thresholds_keV {n_thresholds}: "
                "give both for the same thresholds"
            )
        if n < _LEAST_CURRENTS:
            raise ValueError(
                f"{n} currents do not determine two dead times: measure {_LEAST_CURRENTS} or more"
            )
        for name, values in (("current_mA", self.current_mA), ("time_s", self.time_s)):
            if not (values.isfinite().all() and (values > 0).all()):
                raise ValueError(f"{name} must be positive, got {values.tolist()}")
        falls = (self.current_mA.diff() <= 0).nonzero().flatten().tolist()
        if falls:
            before, after = self.current_mA[falls[0] : falls[0] + 2].tolist()
            raise ValueError(
                f"current_mA must increase, but {after:g} mA follows {before:g} mA: sort the "
                "currents, and the first axis of counts and time_s with them"
            )
        if not bool(self.usable.any()):
            raise ValueError(
                "no pixel counts above every threshold at every current: check counts, or leave "
                "out the threshold above which nothing is counted"
            )
        self._require_rising()

    @property
    def rates(self) -> Float[Tensor, "current pixel threshold"]:
        """Registered rates in 1/s."""
        return self.counts.double().flatten(1, -2) / self.time_s.double()[:, None, None]

    @property
    def usable(self) -> Bool[Tensor, "pixel"]:
        """Pixels that count above every threshold at every current, more at higher ones.

        Rates that fall by more than noise, alone among the pixels, are those of broken counters.
        """
        counts = self.counts.double().flatten(1, -2)
        alive = (counts.isfinite() & (counts > 0)).all(-1).all(0)
        rise, noise = self.rates.diff(dim=0), counts.sqrt() / self.time_s.double()[:, None, None]
        falls = (rise < -_FALLS * torch.hypot(noise[1:], noise[:-1])).any(-1).any(0)
        return alive & ~falls if bool((alive & ~falls).any()) else alive

    def _require_rising(self) -> None:
        """In the median pixel the registered rate rises with the current."""
        typical = self.rates[:, self.usable].median(1).values  # (current, threshold)
        for j, keV in enumerate(self.thresholds_keV.tolist()):
            falls = (typical[:, j].diff() <= 0).nonzero().flatten().tolist()
            if falls:
                i = falls[0]
                before, after = self.current_mA[i : i + 2].tolist()
                raise ValueError(
                    f"the rate above {keV:g} keV falls from {typical[i, j]:.4g} to "
                    f"{typical[i + 1, j]:.4g} per second between {before:g} and {after:g} mA: the "
                    "counters are beyond their greatest rate, or currents and counts are not in "
                    f"the same order; leave out currents above {before:g} mA, or sort them"
                )


@dataclass(frozen=True)
class DeadTimes:
    """Dead times of the counter of each threshold, for all pixels or for each.

    Args:
        paralysable_s, nonparalysable_s: τ_p and τ_n.
        covariance_s2: of (τ_p, τ_n), for Poisson counts; zero where a dead time was held at zero.
        misfit: χ² per degree of freedom.
        converged: whether the fit did, and a pixel follows the curve as well as the others.
        thresholds_keV: nominal thresholds of the counters.
    """

    paralysable_s: Float[Tensor, "*pixel threshold"]
    nonparalysable_s: Float[Tensor, "*pixel threshold"]
    covariance_s2: Float[Tensor, "*pixel threshold 2 2"]
    misfit: Float[Tensor, "*pixel threshold"]
    converged: Bool[Tensor, "*pixel threshold"]
    thresholds_keV: Float[Tensor, "threshold"]

    @property
    def unknown(self) -> Bool[Tensor, "*pixel"]:
        """Pixels whose dead times are NaN."""
        return (self.paralysable_s + self.nonparalysable_s).isnan().any(-1)

    def pile_up(self, time_s: float) -> PileUp:
        """The stage that corrects counts of views with this counting time."""
        return PileUp(self.paralysable_s, self.nonparalysable_s, time_s)

    def corrected(self, above: Float[Tensor, "*exposure threshold"], time_s: float) -> TrueRate:
        """Counts above thresholds of counters without dead time, and where they are resolved.

        Args:
            above: registered counts above each threshold; the last axes before it are those of the
                pixels.
            time_s: counting time.
        """
        tp, tn = self.paralysable_s, self.nonparalysable_s
        rate, resolved = true_rate(above.double() / time_s, tp, tn)
        return TrueRate(rate * time_s, resolved)

    def require_scanner(
        self, shape: tuple[int, ...], thresholds_keV: Float[Tensor, "threshold"]
    ) -> None:
        """Raise ValueError unless a scanner has these pixels and nominal thresholds."""
        own = tuple(self.paralysable_s.shape[:-1])
        if own and shape not in (own, (1, *own)):
            raise ValueError(
                f"the dead times are of {' x '.join(map(str, own))} pixels, the counts of "
                f"{' x '.join(map(str, shape))}: fit them to a current series of this detector"
            )
        nominal = self.thresholds_keV
        if nominal.shape != thresholds_keV.shape or not torch.allclose(
            nominal.double(), thresholds_keV.double(), rtol=0, atol=1e-3
        ):
            raise ValueError(
                f"the dead times are for thresholds of {nominal.tolist()} keV, the counts for "
                f"{thresholds_keV.tolist()}: measure the current series with the same thresholds"
            )


@dataclass(frozen=True)
class DeadTimeFit:
    """``fit_dead_times`` as a choice of ``calibrate.py``.

    Args:
        each_pixel: fit every pixel by itself.
    """

    each_pixel: bool = False

    def fit(self, series: CurrentSeries) -> DeadTimes:
        """The dead times of a series."""
        return fit_dead_times(series, self.each_pixel)


def fit_dead_times(series: CurrentSeries, each_pixel: bool = False) -> DeadTimes:
    """Fit m(I) = n exp(−n τ_p)/(1 + n τ_n) with n = s I to the rates above every threshold.

    The true rate of a pixel is proportional to the tube current. Neither dead time is negative: one
    that would be is held at zero. A few per cent of loss determine τ_p + τ_n well and the two
    apart poorly: they differ from the second order of n τ on.

    Args:
        series: what was measured.
        each_pixel: fit every pixel by itself; otherwise the sum of all usable pixels, whose true
            rates differ so little that their mean rate is that of a mean pixel.
    """
    usable = series.usable
    counts = series.counts.double().flatten(1, -2)
    if each_pixel:
        pixels = counts.where(usable[:, None], torch.nan)
        shape: tuple[int, ...] = series.counts.shape[1:]
    else:  # the noise is that of the sum, the rate that of one pixel
        pixels, shape = counts[:, usable].mean(1, keepdim=True), series.counts.shape[-1:]
    weight = 1.0 if each_pixel else float(usable.sum())
    observed = pixels.flatten(1).T  # (problem, current)
    fit = _fitted(observed, series.current_mA.double(), series.time_s.double(), weight)
    tp, tn, covariance, misfit, converged = (
        values.reshape(*shape, *values.shape[1:]) for values in fit
    )
    if each_pixel:
        n_spare = len(series.current_mA) - 3
        chance = float(stats.chi2.isf(_LEAST_CHANCE, n_spare)) / n_spare
        typical = misfit.flatten(0, -2).nanmedian(0).values
        converged = converged & ~(misfit > (_ODD * typical).clamp(min=chance)).any(-1, keepdim=True)
    return DeadTimes(tp, tn, covariance, misfit, converged, series.thresholds_keV)


def _fitted(
    counts: Float[Tensor, "problem current"],
    current: Float[Tensor, "current"],
    time_s: Float[Tensor, "current"],
    weight: float,
) -> tuple[Tensor, ...]:
    """τ_p, τ_n, their covariance, χ² per degree of freedom, and whether the fit converged.

    The unknowns are ln(s I/m) at the highest current, τ = τ_p + τ_n and q = τ_n²: the curve depends
    on τ_n from the second order on, ln m = ln n − n τ + n² q/2 − …, so that the derivatives in τ_p
    and τ_n are the same at τ_n = 0. Where q would be negative it is zero, and where it would exceed
    τ² it is τ².
    """
    rate = counts / time_s
    sd = 1 / (weight * counts).sqrt()  # of ln m
    share = current / current[-1]
    q_is_free, q_is_zero, q_is_all = (torch.full_like(rate[:, :1], float(k == 0)) for k in range(3))
    start = torch.tensor([0.05, 0.05, 0.0006], dtype=torch.float64).expand(len(counts), 3)
    solve = LevenbergMarquardt(max_steps=200)
    for _ in range(2):
        curve = partial(_residuals, q_is_free, q_is_all, rate, share, sd)
        fit = solve(curve, torch.cat([start[:, :2], start[:, 2:] * q_is_free], -1))
        _, tau, q = fit.x.split(1, -1)
        q_is_zero = q_is_zero + q_is_free * (q < 0)
        q_is_all = q_is_all + q_is_free * (q > tau.clamp(min=0) ** 2)
        q_is_free = 1 - (q_is_zero + q_is_all).clamp(max=1)
        if bool((q_is_free == 1).all()):
            break
    top = rate[:, -1:]
    # where both together would be negative there are none, and only the scale is left
    none = (fit.x[:, 1:2] < 0).double()
    scale = ((rate / top / share).log() / sd**2).sum(-1, keepdim=True) / (sd**-2).sum(-1)[:, None]
    alone = torch.cat([scale, torch.zeros_like(fit.x[:, 1:])], -1)
    x = torch.where(none > 0, alone, fit.x)
    q_is_free, q_is_all = q_is_free * (1 - none), q_is_all * (1 - none)
    residual = _residuals(q_is_free, q_is_all, rate, share, sd, x).value[:, : len(current)]
    chi2 = residual.square().sum(-1) / (len(current) - 2 - q_is_free[:, 0])
    tau, q = x[:, 1:2], x[:, 2:].clamp(min=0)
    tn = torch.where(q_is_all > 0, tau, q_is_free * q.sqrt())
    covariance = _of_both(torch.linalg.inv(fit.normal)[:, 1:, 1:], tn, q_is_free, q_is_all)
    covariance = covariance * (1 - none[..., None])
    both = (tau - tn) / top, tn / top
    converged = fit.converged & chi2.isfinite()
    return both[0][:, 0], both[1][:, 0], covariance / top[..., None] ** 2, chi2, converged


def _of_both(
    covariance: Float[Tensor, "problem 2 2"], tn: Tensor, q_is_free: Tensor, q_is_all: Tensor
) -> Float[Tensor, "problem 2 2"]:
    """Covariance of (τ_p, τ_n) from that of (τ, q)."""
    by_q = q_is_free / (2 * tn.clamp(min=1e-12))
    rows = [torch.cat([1 - q_is_all, -by_q], -1), torch.cat([q_is_all, by_q], -1)]
    slopes = torch.stack(rows, 1)
    return slopes @ covariance @ slopes.mT


def _residuals(
    q_is_free: Tensor,
    q_is_all: Tensor,
    rate: Tensor,
    share: Tensor,
    sd: Tensor,
    x: Float[Tensor, "problem 3"],
) -> Residuals:
    """Of ln m, in standard deviations; q has a residual of its own where it is not free."""
    n = share * x[:, :1].exp()  # in units of the highest registered rate
    tau, q = x[:, 1:2], q_is_free * x[:, 2:] + q_is_all * x[:, 1:2] ** 2
    n_tn = n * q.clamp(min=0).sqrt()
    # n τ_n − ln(1 + n τ_n), linear where q is negative
    bent = torch.where(q > 0, n_tn - torch.log1p(n_tn), n**2 * q / 2)
    by_q = n**2 / (2 * (1 + n_tn))
    value = ((n * rate[:, -1:] / rate).log() - n * tau + bent) / sd
    by_scale = 1 - n * tau + 2 * q * by_q
    by_tau = -n + by_q * 2 * tau * q_is_all
    rows = torch.stack([by_scale, by_tau, by_q * q_is_free], -1) / sd[..., None]
    held = (1 - q_is_free) * x[:, 2:]
    own = torch.cat([torch.zeros_like(x[:, :2]), 1 - q_is_free], -1)[:, None]
    return Residuals(torch.cat([value, held], -1), torch.cat([rows, own], 1), 1e-15 / sd.amin(-1))
