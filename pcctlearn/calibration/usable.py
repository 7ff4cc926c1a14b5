"""What every calibration from plates needs: usable pixels, and counts that are above thresholds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.plate_counts import PlateModel
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.scans.dead_pixels import any_of

_MOST_APART = 4.0  # counts of a pixel over those of the median one, or less
# ln of counts above thresholds over those that the scanner expects, of the median pixel
_NEARLY, _MOST_OFF = 0.15, 0.4
_CLOSER = 3.0  # times, of bins or sums that are taken for counts above thresholds


def unusable(
    counts: Float[Tensor, "pixel exposure threshold"],
    known: Mapping[str, Bool[Tensor, "*pixel"]] | None = None,
) -> dict[str, Bool[Tensor, "pixel"]]:
    """{kind: pixels} that no calibration can use, or that would spoil sums over the pixels.

    Args:
        counts: of all pixels.
        known: flags of the calibration set.
    """
    flags = {kind: flagged.flatten() for kind, flagged in (known or {}).items()}
    free = ~any_of(flags) if flags else torch.ones(len(counts), dtype=torch.bool)
    finite = counts.isfinite().flatten(1).all(-1)
    counted = (counts > 0).flatten(1).all(-1)
    good = free & finite & counted
    if not good.any():
        raise ValueError("every pixel lacks counts in some exposure: check the thresholds")
    apart = (counts / counts[good].median(0).values).log().abs().flatten(1).amax(-1)
    return flags | {
        "not finite": free & ~finite,
        "without counts": free & finite & ~counted,
        "outlier": good & ~(apart < math.log(_MOST_APART)),
    }


def with_empty_bins(
    counts: Float[Tensor, "pixel exposure threshold"], flags: Mapping[str, Bool[Tensor, "pixel"]]
) -> dict[str, Bool[Tensor, "pixel"]]:
    """The flags, and those of pixels that counted nothing in a bin of some exposure.

    Raises:
        ValueError: no pixel is left.
    """
    free = ~any_of(flags)
    filled = (bins_from_above(counts) > 0).flatten(1).all(-1)
    if not (free & filled).any():
        raise ValueError(
            "every pixel lacks counts in a bin of some exposure: expose longer, or use "
            "calibration=etb"
        )
    return {**flags, "without counts in a bin": free & ~filled}


def require_expected(
    counts: Float[Tensor, "pixel exposure threshold"], model: PlateModel, plates: CalibrationSet
) -> None:
    """Raise ValueError if the counts of a typical pixel are far from those of the scanner.

    They are compared above each threshold, and behind each plate relative to the thinnest. Where
    the exposures are unknown, plates are compared by their counts relative to the lowest threshold.
    """
    require_nested(counts, model, plates)
    air = int(plates.plates_cm.sum(-1).argmin())
    rates = counts.median(0).values
    if plates.exposure is not None:
        rates = rates / plates.exposure.double()[:, None]

    def projections(values: Float[Tensor, "exposure threshold"]) -> Tensor:
        p = (values[air] / values).log()
        return p if plates.exposure is not None else p - p[:, :1]

    def expected(transmission: Float[Tensor, "exposure energy"]) -> Tensor:
        return projections(_expected(replace(model, transmission=transmission), plates))

    measured, wanted = projections(rates), expected(model.transmission)
    off = (measured - wanted).abs()
    if not (off > _NEARLY + _MOST_OFF * wanted.abs()).any():
        return
    in_mm = (measured - expected(model.transmission**0.1)).abs()
    if float(in_mm.max()) < float(off.max()) / _CLOSER:
        raise ValueError("plates_cm fit the counts if these lengths are in mm: divide them by 10")
    exposure = int(off.amax(1).argmax())
    index = int(off[exposure].argmax())
    raise ValueError(
        f"ln of the counts above {plates.thresholds_keV[index]:g} keV falls by "
        f"{float(measured[exposure, index]):.3g} from {plates.named(air)} to "
        f"{plates.named(exposure)} (exposure {exposure}), where the scanner expects "
        f"{float(wanted[exposure, index]):.3g}: check the exposures, the plates, the spectrum and "
        "the response"
    )


def require_nested(
    counts: Float[Tensor, "pixel exposure threshold"], model: PlateModel, plates: CalibrationSet
) -> None:
    """Raise ValueError if the counts of a typical pixel are not those above the thresholds."""
    air = int(plates.plates_cm.sum(-1).argmin())
    typical = counts[:, air].median(0).values
    expected = _expected(model, plates)[air]
    bins, sums = bins_from_above(expected), above_from_bins(expected)
    if (off := _off(typical, expected)) <= _NEARLY:
        return
    most = min(off / _CLOSER, _NEARLY)  # of what they are instead
    if _off(typical, bins) < most:
        raise ValueError(
            "the counts are those in bins, not above thresholds: set the attribute counted of the "
            "file to 'bins' (in Python: CalibrationSet.from_bins)"
        )
    if _off(typical, sums) < most:
        raise ValueError(
            "the counts are sums of counts above thresholds: set the attribute counted of the file "
            "to 'above' (in Python: CalibrationSet without from_bins)"
        )
    if _off(above_from_bins(bins_from_above(typical).flip(0)), expected) < most:
        raise ValueError(
            "the counts in bins are in reverse order of thresholds_keV: reverse their axis, as "
            "counts[:, ::-1] in a file"
        )
    if off > _MOST_OFF:
        found, wanted = ((x / x[0]).tolist() for x in (typical, expected))
        raise ValueError(
            f"counts behind {plates.named(air)} are {_listed(found)} of those above "
            f"{plates.thresholds_keV[0]:g} keV, where the scanner expects {_listed(wanted)}: check "
            "spectrum, response and thresholds"
        )


def _expected(model: PlateModel, plates: CalibrationSet) -> Float[Tensor, "exposure threshold"]:
    """Counts of a nominal pixel."""
    no_skew = torch.zeros(1, len(model.attenuation_per_cm)).double()
    thresholds = plates.thresholds_keV.double()
    return torch.stack([model.counts(no_skew, keV[None]).counts[0] for keV in thresholds], -1)


def _off(counts: Tensor, expected: Tensor) -> float:
    """Largest difference of the logarithms, relative to the lowest threshold."""
    return float(((counts / counts[0]) / (expected / expected[0])).log().abs().max())


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def require_plates(plates: CalibrationSet, n_unknowns: int) -> None:
    """Raise ValueError for fewer plates than unknowns of a pixel."""
    if len(plates.counts) < n_unknowns:
        raise ValueError(
            f"{len(plates.counts)} exposure(s) do not determine {n_unknowns} numbers of a pixel: "
            "measure more plates (calibration=etb calibration.materials=[CdTe] needs air and one)"
        )


def spread(values: Tensor, good: Tensor, missing: float | bool | Tensor) -> Tensor:
    """Values of the good pixels among all pixels."""
    full = torch.empty(len(good), *values.shape[1:], dtype=values.dtype)
    full[:] = torch.as_tensor(missing, dtype=values.dtype)
    full[good] = values
    return full
