"""Checks of the counts of the median pixel against those that the scanner expects."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.plate_counts import PlateModel
from pcctlearn.calibration.threshold_step import FURTHEST_keV
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above

# ln of counts above thresholds over those that the scanner expects
_NEARLY, _MOST_OFF = 0.15, 0.4
_CLOSER = 3.0  # times, of what explains the counts better than what is stored
_IN_MM, _IN_MM_RELATIVE = 0.05, 0.1  # of projections: those of a skew of 0.1 mm of CdTe
_STEP_keV = 0.1
MOST_BIASED_keV = 2.0  # of the median pixel, without a warning
_MOST_SHIFTED_keV = FURTHEST_keV / 2  # of all pixels; the rest of the search is for each of them

Typical = Float[Tensor, "exposure threshold"]

_BINS = (
    "the counts are those in bins, not above thresholds: set the attribute counted of the file to "
    "'bins' (in Python: CalibrationSet.from_bins)"
)
_SUMS = "the counts are sums of counts above thresholds: "
_SUMMED = _SUMS + "store those above each threshold"
_SUMMED_AGAIN = _SUMS + (
    "set the attribute counted of the file to 'above' (in Python: CalibrationSet without from_bins)"
)
_REVERSED = (
    "the counts in bins are in reverse order of thresholds_keV: reverse their axis, as "
    "counts[:, ::-1] in a file"
)


def require_expected(
    counts: Float[Tensor, "pixel exposure threshold"], model: PlateModel, plates: CalibrationSet
) -> None:
    """Raise ValueError if the counts of the median pixel are far from those of the scanner.

    They are compared above each threshold, and behind each plate relative to the thinnest. Where
    the exposures are unknown, plates are compared by their counts relative to the lowest threshold.
    """
    require_nested(counts, model, plates)
    air = int(plates.plates_cm.sum(-1).argmin())
    rates = counts.median(0).values
    if plates.exposure is not None:
        rates = rates / plates.exposure.double()[:, None]

    def projections(values: Typical) -> Typical:
        p = (values[air] / values).log()
        return p if plates.exposure is not None else p - p[:, :1]

    def expected(transmission: Float[Tensor, "exposure energy"]) -> Typical:
        return projections(_expected(replace(model, transmission=transmission), plates))

    measured, wanted = projections(rates), expected(model.transmission)
    off = (measured - wanted).abs()
    if not (off > _NEARLY + _MOST_OFF * wanted.abs()).any():
        return
    thinner = expected(model.transmission**0.1)
    if ((measured - thinner).abs() <= _IN_MM + _IN_MM_RELATIVE * thinner.abs()).all():
        raise ValueError("plates_cm fit the counts if these lengths are in mm: divide them by 10")
    exposure = int(off.amax(1).argmax())
    index = int(off[exposure].argmax())
    raise ValueError(
        f"ln of the counts above {plates.thresholds_keV[index]:g} keV falls by "
        f"{float(measured[exposure, index]):.3g} from {plates.named(air)} to "
        f"{plates.named(exposure)} (exposure {exposure}), where the scanner expects "
        f"{float(wanted[exposure, index]):.3g}: check the exposures, the lengths and materials of "
        "the plates, the spectrum and the response"
    )


def require_nested(
    counts: Float[Tensor, "pixel exposure threshold"], model: PlateModel, plates: CalibrationSet
) -> None:
    """Raise ValueError if the counts of the median pixel are not those above the thresholds.

    Counts relative to those above the lowest threshold are compared behind all plates. Thresholds
    that differ from the nominal ones by up to 6 keV explain them as well as the nominal ones do:
    a calibration finds them.
    """
    typical, expected = counts.median(0).values, _expected(model, plates)
    if (off := _off(typical, expected)) <= _NEARLY:
        return
    thresholds, shifted = _shifted(typical, expected, model, plates)
    sums = _off(typical, above_from_bins(expected))
    if plates.counted == "above":
        others = [(sums, _SUMMED), (_off(typical, bins_from_above(expected)), _BINS)]
    else:
        in_order = above_from_bins(bins_from_above(typical).flip(-1))
        others = [(sums, _SUMMED_AGAIN), (_off(in_order, expected), _REVERSED)]
    least, cause = min(others)
    most = min(off / _CLOSER, _NEARLY)
    found, nominal = _listed(thresholds), _listed(plates.thresholds_keV.tolist())
    # one exposure fits some thresholds in any case
    surely = shifted <= most and _CLOSER * shifted < least and len(typical) > 1
    if least <= most and not surely:
        if _CLOSER * least >= shifted:
            cause += f", or correct thresholds_keV from {nominal} to {found} keV"
        raise ValueError(cause)
    if shifted <= most:
        apart = torch.tensor(thresholds) - plates.thresholds_keV
        if apart.abs().max() > _MOST_SHIFTED_keV:
            raise ValueError(
                f"the counts are those above {found} keV in the median pixel, not above "
                f"{nominal} keV: correct thresholds_keV"
            )
        return
    air = int(plates.plates_cm.sum(-1).argmin())
    if _off(typical[air : air + 1], expected[air : air + 1]) > _MOST_OFF:
        is_, wanted = ((x[air] / x[air, 0]).tolist() for x in (typical, expected))
        raise ValueError(
            f"counts behind {plates.named(air)} are {_listed(is_)} of those above "
            f"{plates.thresholds_keV[0]:g} keV, where the scanner expects {_listed(wanted)}: check "
            "thresholds_keV, the spectrum and the response"
        )


def shared_bias(
    counts: Float[Tensor, "pixel exposure threshold"], model: PlateModel, plates: CalibrationSet
) -> Iterator[str]:
    """A sentence about thresholds that the median pixel contradicts by more than 2 keV.

    For calibrations from counts relative to the sum over the pixels, which do not determine it.
    """
    typical, expected = counts.median(0).values, _expected(model, plates)
    thresholds, left = _shifted(typical, expected, model, plates)
    apart = (torch.tensor(thresholds) - plates.thresholds_keV).abs().max()
    if apart > MOST_BIASED_keV and _CLOSER * left < _off(typical, expected):
        yield (
            f"the counts of the median pixel are those above {_listed(thresholds)} keV, not above "
            f"{_listed(plates.thresholds_keV.tolist())} keV, and counts relative to the sum over "
            "the pixels do not determine a bias that all pixels share: correct thresholds_keV"
        )


def _shifted(
    typical: Typical, expected: Typical, model: PlateModel, plates: CalibrationSet
) -> tuple[list[float], float]:
    """Thresholds above the lowest that fit the counts best, and what they leave of ``_off``."""
    found, off = [float(plates.thresholds_keV[0])], 0.0
    low, high = float(model.energies_keV[0]), float(model.energies_keV[-1]) - 1
    steps = torch.arange(-FURTHEST_keV, FURTHEST_keV + _STEP_keV / 2, _STEP_keV)
    no_skew = torch.zeros(len(steps), len(model.attenuation_per_cm)).double()
    for j, keV in enumerate(plates.thresholds_keV.tolist()[1:], start=1):
        T = (keV + steps.double()).clamp(low, high)
        ratio = (model.counts(no_skew, T).counts / expected[:, 0]).log()
        left = (ratio - (typical[:, j] / typical[:, 0]).log()).abs().amax(1)
        best = int(left.argmin())
        found.append(float(T[best]))
        off = max(off, float(left[best]))
    increase = all(a < b for a, b in pairwise(found))
    return found, off if increase else torch.inf


def _expected(model: PlateModel, plates: CalibrationSet) -> Typical:
    """Counts of a nominal pixel."""
    no_skew = torch.zeros(1, len(model.attenuation_per_cm)).double()
    thresholds = plates.thresholds_keV.double()
    return torch.stack([model.counts(no_skew, keV[None]).counts[0] for keV in thresholds], -1)


def _off(counts: Typical, expected: Typical) -> float:
    """Largest difference of the logarithms, relative to the lowest threshold."""
    return float(((counts / counts[:, :1]) / (expected / expected[:, :1])).log().abs().max())


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
