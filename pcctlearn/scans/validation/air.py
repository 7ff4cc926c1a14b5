"""Compare counts with air, and air with the spectral model of the file."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.scans.validation.pixels import PerPixel, Sample

PerBin = Float[np.ndarray, "bin"]

_MOST_FACTOR = 3.0  # between bins of air / model; pile-up, tails and threshold shifts cause less
_DOUBTFUL_FACTOR = 1.5
_CUMULATED = 1.1  # factor between per-bin and cumulative counts that can still be distinguished
_MISSING_OBJECT = 0.8  # least counts / air of rays that pass beside the object
_EXCEEDING = 1.5  # counts / air that scatter cannot explain
_USUAL = 0.93, 1.15  # counts / air of rays beside the object, scatter included
_DRIFT = 0.88  # least counts / air of a view over that of the brightest view
_WATER_G_CM2 = torch.linspace(0, 120, 481, dtype=torch.float64)
_BRIGHTEST = 0.01  # share of the rays


class Findings(NamedTuple):
    """``faults`` are certain and stop an evaluation; ``doubts`` become warnings."""

    faults: list[str]
    doubts: list[str]


class Brightest(NamedTuple):
    """Counts over air of the brightest rays: of all bins, of each bin, and relative errors."""

    ratio: float
    of_bins: PerBin
    relative_errors: PerBin


def air_findings(
    counts: Sample, air: PerPixel, model: SpectralModel | None, counted: str = "bins"
) -> Findings:
    """Faults and doubts from two tests of counts and air.

    1. Air over the bins must have the shape that spectrum, response and thresholds predict. The
       median over the pixels is compared, in which gains, skew and threshold differences cancel.
    2. In rays beside the object, which are the brightest, counts must equal air.

    Args:
        counts: photons, of a sample of the views.
        air: photons; NaN and zero mark dead pixels, which are ignored.
        model: of water, with thresholds for all pixels; ``None`` where the file has none.
        counted: what the file says of counts and air, "bins" or "above" thresholds; both are given
            here in bins.
    """
    air = np.where(air > 0, air, np.nan).astype(np.float64)
    if np.isnan(air).all() or np.isnan(counts).all():
        return Findings([], [])
    findings = Findings([], [])
    expected = None if model is None else model.air().detach().numpy()
    if expected is None:
        if counted == "bins":
            findings.doubts.extend(_falling(air))
    else:
        _compare_shape(air, expected, counted, findings)
    if findings.faults:
        return findings
    brightest = brightest_rays(counts, air)
    findings.faults.extend(_excess(brightest))
    if findings.faults:
        return findings
    level = None if expected is None else _central(air) / expected.sum()
    if brightest.ratio < _MISSING_OBJECT:
        _covered(brightest, level, model, findings)
        return findings
    findings.doubts.extend(_off(brightest))
    findings.doubts.extend(_drift(counts, air))
    if level is not None and abs(np.log(level)) > np.log(_DOUBTFUL_FACTOR):
        findings.doubts.append(
            f"air is {level:.3g} times that of spectrum and response: the fluence is of another "
            "exposure, and only its shape is used"
        )
    return findings


def _compare_shape(air: PerPixel, expected: PerBin, counted: str, findings: Findings) -> None:
    def ratios(shape: PerBin) -> PerBin:
        return np.nanmedian(air / shape[:, None, None], (1, 2))

    def spread(shape: PerBin) -> float:
        return float(np.ptp(np.log(ratios(shape))))

    convert = above_from_bins if counted == "bins" else bins_from_above
    other = convert(torch.from_numpy(expected)).numpy()  # in the bins, if counted is wrong
    distinct = (other > 0).all() and np.ptp(np.log(other / expected)) > np.log(_CUMULATED)
    found = spread(expected)
    shown = ", ".join(f"{value:.3g}" for value in ratios(expected) / ratios(expected)[-1])
    fits = np.log(_DOUBTFUL_FACTOR)
    if distinct and found > np.log(_CUMULATED) and spread(other) < min(found / 5, fits):
        findings.faults.append(
            f"air is cumulative (counts above each threshold), not per bin: air over its model is "
            f"{shown} in the bins; set the root attribute counted to 'above' (schema version 2)"
            if counted == "bins"
            else f"air holds counts in bins, not above thresholds: converted to bins, air over its "
            f"model is {shown}; set the root attribute counted to 'bins'"
        )
    elif found > fits and spread(expected[::-1]) < min(found / 3, fits):
        findings.faults.append(
            f"air has its bins in reverse order: air over its model is {shown} in the bins; store "
            "counts[::-1] and air[::-1] (numpy, bin axis first), from the lowest bin to the highest"
        )
    elif found > fits:
        is_fault = found > np.log(_MOST_FACTOR)
        (findings.faults if is_fault else findings.doubts).append(
            f"the bins of air do not fit spectrum, response and thresholds_keV: air over its model "
            f"is {shown} in the bins, relative to the last; store those of this detector and tube"
        )


def _falling(air: PerPixel) -> Iterator[str]:
    if len(air) > 1 and np.nanmean((np.diff(air, axis=0) <= 0).all(0)) > 0.95:
        yield (
            "air falls from bin to bin, as counts above thresholds do, and the file has no "
            "spectrum and response to decide: if these are counts above thresholds, set the root "
            "attribute counted to 'above' (schema version 2)"
        )


def brightest_rays(counts: Sample, air: PerPixel) -> Brightest:
    """Counts over air of the 1 % of the rays with the greatest ratio, up to eight rows summed."""
    known = ~np.isnan(counts).any(0) & ~np.isnan(air).any(0)
    n_rows = air.shape[1]
    groups = np.arange(0, n_rows, min(8, n_rows))
    n, expected = (
        np.add.reduceat(np.where(known, values, 0.0), groups, axis=2).reshape(len(air), -1)
        for values in (counts, np.broadcast_to(air[:, None], counts.shape))
    )
    total = expected.sum(0)
    ratio = np.where(total > 0, n.sum(0) / np.maximum(total, 1e-30), -1)
    chosen = np.argsort(ratio)[-max(8, int(_BRIGHTEST * (total > 0).sum())) :]
    chosen = chosen[total[chosen] > 0]
    n, expected = n[:, chosen].sum(1), expected[:, chosen].sum(1)
    return Brightest(n.sum() / expected.sum(), n / expected, 1 / np.sqrt(n + 1))


def _excess(brightest: Brightest) -> Iterator[str]:
    certain = brightest.of_bins * (1 - 5 * brightest.relative_errors)
    if (certain >= _EXCEEDING).any():
        shown = ", ".join(f"{value:.3g}" for value in brightest.of_bins)
        yield (
            f"counts exceed air: counts over air is {shown} in the bins of the brightest rays; "
            "store dark-corrected counts in photons, and air of the same exposure"
        )


def _off(brightest: Brightest) -> Iterator[str]:
    error = 5 * float(brightest.relative_errors.min())
    least, most = _USUAL
    if not least - error <= brightest.ratio <= most + error:
        yield (
            f"counts over air is {brightest.ratio:.3g} in the brightest rays, where about 1 is "
            "expected beside the object: store air of the exposure of counts, unless the object "
            "covers the whole panel or scatter is as strong"
        )


def _drift(counts: Sample, air: PerPixel) -> Iterator[str]:
    """A sentence if the exposure seems to change from view to view, by the brightest rays."""
    counted = np.flatnonzero(~np.isnan(counts).any(0).all((1, 2)))
    views = [brightest_rays(counts[:, v : v + 1], air) for v in counted]
    if not views:
        return
    ratio = np.array([view.ratio for view in views])
    error = 5 * max(float(view.relative_errors.min()) for view in views)
    if ratio.max() > _USUAL[0] and ratio.min() < (_DRIFT - error) * ratio.max():
        yield (
            f"counts over air of the brightest rays is {ratio.min():.3g} in some views and "
            f"{ratio.max():.3g} in others: if the exposure changed, store that of each view, over "
            "that of air, as the dataset exposure; if the object covers the panel in some views, "
            "nothing is wrong"
        )


def _central(air: PerPixel) -> float:
    """Median over the middle of the panel of the sum over the bins."""
    rows, columns = (slice(n // 4, n - n // 4) for n in air.shape[1:])
    middle = air[:, rows, columns].sum(0)
    return float(np.nanmedian(middle if np.isfinite(middle).any() else air.sum(0)))


def _covered(
    brightest: Brightest, level: float | None, model: SpectralModel | None, findings: Findings
) -> None:
    """Decide whether the object covers the panel, or air is of another exposure."""
    at_most = f"counts over air is {brightest.ratio:.3g} at most"
    if level and level > 1 / _MISSING_OBJECT and abs(np.log(level * brightest.ratio)) < 0.22:
        findings.faults.append(
            f"air is of a longer exposure than counts: {at_most}, and air is {level:.4g} times "
            f"that of spectrum and response; store air / {level:.4g}"
        )
    elif model is not None and _unhardened(brightest, model):
        findings.faults.append(
            f"air is of another exposure than counts: {at_most}, and similar in all bins, which no "
            "attenuation explains; store air of the exposure of counts, about air * "
            f"{brightest.ratio:.4g} if rays pass beside the object"
        )
    else:
        findings.doubts.append(
            f"{at_most}: either the object covers the whole panel in every view, or air is of "
            "another exposure than counts, which makes all densities wrong"
        )


def _unhardened(brightest: Brightest, model: SpectralModel) -> bool:
    """Whether the bins differ by less than 0.3 times as much as behind water of equal ratio."""
    with torch.no_grad():
        counts = model(_WATER_G_CM2[:, None]).numpy()
    transmission = counts.sum(1) / counts[0].sum()
    of_bins = counts[np.abs(transmission - brightest.ratio).argmin()] / counts[0]
    expected = np.ptp(np.log(of_bins.clip(1e-12)))
    found = np.ptp(np.log(brightest.of_bins.clip(1e-12)))
    return bool(expected > 10 * brightest.relative_errors.max() and found < 0.3 * expected)
