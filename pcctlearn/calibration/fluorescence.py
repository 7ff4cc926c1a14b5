"""Threshold biases from sweeps of the threshold over K lines of metal powders [2, Fig. 12]."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import xraylib
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.plate_counts import OfPixels
from pcctlearn.solvers.levenberg_marquardt import LevenbergMarquardt, Residuals
from pcctlearn.validation import require_positive

_ALPHA = (xraylib.KA1_LINE, xraylib.KA2_LINE)
_BETA = (xraylib.KB1_LINE, xraylib.KB2_LINE, xraylib.KB3_LINE)
_START_SIGMA_keV = 2.0
_LONGEST_keV = 2.0  # step of the center
_LONGEST_LN = 0.5  # step of ln σ
_ROUNDING = 1e-9
_PASSES = 2

Sweep = Float[Tensor, "pixel setting"]
Settings = Float[Tensor, "setting"]
Window = Float[Tensor, "pixel used"]


class KLines(NamedTuple):
    """K lines of a metal and their shares; ``alpha_keV`` is the mean of the Kα lines by rate."""

    energies_keV: Float[Tensor, "line"]
    shares: Float[Tensor, "line"]
    alpha_keV: float


def k_lines(metal: str) -> KLines:
    """Energies and rates of xraylib (T. Schoonjans et al., Spectrochim. Acta B 66 (2011) 776).

    Raises:
        ValueError: the name is no symbol of an element with K lines.
    """
    try:
        Z = xraylib.SymbolToAtomicNumber(metal)
        energies = torch.tensor([xraylib.LineEnergy(Z, line) for line in (*_ALPHA, *_BETA)])
        rates = torch.tensor([xraylib.RadRate(Z, line) for line in (*_ALPHA, *_BETA)])
    except ValueError:
        raise ValueError(
            f"{metal!r} is no element with Kα and Kβ lines: give symbols such as Gd, W, Pb"
        ) from None
    energies, rates = energies.double(), rates.double()
    n = len(_ALPHA)
    alpha = float((energies[:n] * rates[:n]).sum() / rates[:n].sum())
    return KLines(energies, rates / rates.sum(), alpha)


class EdgeFit(NamedTuple):
    """Center of the fitted line in each pixel, its standard error for Poisson counts."""

    center_keV: OfPixels
    sd_keV: OfPixels
    converged: Bool[Tensor, "pixel"]


def fitted_edges(
    counts: Sweep, settings_keV: Settings, line_keV: float, half_width_keV: float = 5.0
) -> EdgeFit:
    """Fit N(s) − N(s + Δ) = a [Φ((s + Δ − c)/σ) − Φ((s − c)/σ)] + b in every pixel.

    N(s) are counts above the setting s, each of an exposure of its own. The fit is one of weighted
    least squares; its standard errors allow for the counts that two differences have in common.

    Args:
        counts: N of every pixel.
        settings_keV: s, in equal steps Δ.
        line_keV: where c is searched for.
        half_width_keV: of the range of the fit about the line, and then about its first fit.

    Raises:
        ValueError: the sweep does not reach over this range.
    """
    low, high = line_keV - half_width_keV, line_keV + half_width_keV
    if settings_keV[0] > low or settings_keV[-1] < high:
        raise ValueError(
            f"the line of {line_keV:.4g} keV needs settings from {low:.3g} to {high:.3g} keV, the "
            f"sweep runs from {settings_keV[0]:g} to {settings_keV[-1]:g} keV: use "
            f"study.sweep_keV=[{min(int(low), int(settings_keV[0]))},"
            f"{max(int(high) + 1, round(float(settings_keV[-1])))}], or another metal"
        )
    center = torch.full_like(counts[:, 0], line_keV, dtype=torch.float64)
    for _ in range(_PASSES):  # the second one about the line that the first one finds
        s, N = _about(center, settings_keV, counts.double(), half_width_keV)
        fit = _fit(s, N, center)
        found = (fit.center_keV - line_keV).abs() < half_width_keV
        center = torch.where(fit.converged & found, fit.center_keV, line_keV)
    return fit._replace(converged=fit.converged & found)


def _about(
    center_keV: OfPixels, settings_keV: Settings, counts: Sweep, half_width_keV: float
) -> tuple[Window, Window]:
    """The settings nearest to the center of each pixel, as many for all, and their counts."""
    step = float(settings_keV[1] - settings_keV[0])
    n = int(2 * half_width_keV / step) + 1
    first = ((center_keV - half_width_keV - settings_keV[0]) / step).round().long()
    first = first.clamp(0, len(settings_keV) - n)
    index = first[:, None] + torch.arange(n)
    return settings_keV.double()[index], counts.gather(1, index)


def _fit(s: Window, N: Window, center_keV: OfPixels) -> EdgeFit:
    """The fit of ``fitted_edges`` to some settings of each pixel."""
    D = N[:, :-1] - N[:, 1:]
    root = (N[:, :-1] + N[:, 1:]).clamp(min=1).rsqrt()

    def residuals(x: Tensor) -> Residuals:
        a, c, log_sigma, b = (x[:, k, None] for k in range(4))
        sigma = log_sigma.exp()
        z = (s - c) / sigma
        cdf, pdf = torch.special.ndtr(z), torch.exp(-z.square() / 2) / (2 * torch.pi) ** 0.5
        J = torch.stack(
            [cdf.diff(), -(a / sigma) * pdf.diff(), -a * (z * pdf).diff(), torch.ones_like(D)], -1
        )
        value = (a * cdf.diff() + b - D) * root
        return Residuals(value, J * root[..., None], torch.full_like(value[:, 0], _ROUNDING))

    start = torch.zeros(len(D), 4, dtype=torch.float64)
    start[:, 3] = D.amin(1).clamp(min=0)
    start[:, 0] = (D - start[:, 3:]).sum(1).clamp(min=1)
    start[:, 1], start[:, 2] = center_keV, torch.tensor(_START_SIGMA_keV).log()
    longest = torch.tensor([torch.inf, _LONGEST_keV, _LONGEST_LN, torch.inf], dtype=torch.float64)
    found = LevenbergMarquardt(1e-3, max_steps=60)(residuals, start, longest)
    J = residuals(found.x).jacobian
    inverse, singular = torch.linalg.inv_ex(found.normal)
    # differences share the counts of the setting between them, with opposite sign
    C = torch.eye(D.shape[1], dtype=torch.float64).expand(len(D), -1, -1).clone()
    shared = -N[:, 1:-1] * root[:, :-1] * root[:, 1:]
    C = C + torch.diag_embed(shared, 1) + torch.diag_embed(shared, -1)
    covariance = inverse @ J.mT @ C @ J @ inverse
    sd = covariance[:, 1, 1].clamp(min=0).sqrt()
    sound = found.converged & (singular == 0) & (found.x[:, 0] > 0)
    return EdgeFit(found.x[:, 1], sd, sound)


@dataclass(frozen=True)
class FluorescenceBias:
    """Bias of a threshold in every pixel, T = T_nominal + bias, from a fluorescence sweep.

    Args:
        bias_keV: of all pixels; starved ones have that of the nearest usable pixel.
        sd_keV: standard error; infinite in starved pixels.
        usable: pixels with enough photons.
    """

    bias_keV: OfPixels
    sd_keV: OfPixels
    usable: Bool[Tensor, "pixel"]


def fluorescence_bias(
    sweeps: Mapping[str, Sweep],
    settings_keV: Settings,
    nominal_keV: float,
    max_sd_keV: float = 0.25,
) -> FluorescenceBias:
    """Line energy minus fitted position, interpolated to the nominal threshold between two lines.

    If a threshold T = s + bias passes a line at the setting s = c, then bias = E − c, where E is
    the mean energy of the Kα lines: the same sign as in ``PixelModel``. A detector registers a line
    below its energy, by charge sharing, so that all biases have an offset. Beyond the lines, the
    bias is that at the nearest one. Starved pixels, where a fit fails or has a standard error
    above ``max_sd_keV``, take the bias of the nearest usable pixel [2, section 3.5].

    Raises:
        ValueError: no metal, a line that the sweep does not reach, or no usable pixel.
    """
    require_positive(max_sd_keV=max_sd_keV)
    if not sweeps:
        raise ValueError("metals is empty: give symbols such as [W]")
    lines = {metal: k_lines(metal).alpha_keV for metal in sweeps}
    ordered = sorted(lines, key=lines.__getitem__)
    keV = torch.tensor([lines[metal] for metal in ordered], dtype=torch.float64)
    fits = [fitted_edges(sweeps[metal], settings_keV, lines[metal]) for metal in ordered]
    right = int(torch.searchsorted(keV, torch.tensor(nominal_keV).double()).clamp(max=len(keV) - 1))
    left = max(right - 1, 0) if nominal_keV < float(keV[right]) else right
    gap = float(keV[right] - keV[left])
    share = 0.0 if gap == 0 else (nominal_keV - float(keV[left])) / gap
    bias = (1 - share) * (keV[left] - fits[left].center_keV)
    bias = bias + share * (keV[right] - fits[right].center_keV)
    sd = ((1 - share) * fits[left].sd_keV).hypot(share * fits[right].sd_keV)
    usable = fits[left].converged & fits[right].converged & (sd < max_sd_keV)
    if not usable.any():
        raise ValueError(
            f"no pixel has a line with a standard error below {max_sd_keV:g} keV: expose longer "
            "(study.photons), or raise study.max_sd_keV"
        )
    return FluorescenceBias(
        nearest_usable(bias, usable), sd.masked_fill(~usable, torch.inf), usable
    )


def nearest_usable(values: OfPixels, usable: Bool[Tensor, "pixel"]) -> OfPixels:
    """Values of the usable pixels, and in all others that of the nearest one along the row."""
    places = usable.nonzero()[:, 0]
    distance = (torch.arange(len(usable))[:, None] - places).abs()
    return values[places[distance.argmin(1)]]
