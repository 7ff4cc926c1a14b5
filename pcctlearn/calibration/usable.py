"""Pixels that calibrations from plates can use."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.plate_counts import PlateModel
from pcctlearn.calibration.typical_counts import require_nested
from pcctlearn.physics.thresholds import bins_from_above
from pcctlearn.scans.dead_pixels import any_of

_MOST_APART = 4.0  # counts of a pixel over those of the median one, or less
_MOST_RISE = 4.0  # of counts from one threshold to the next, in standard deviations


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


def usable_pixels(
    plates: CalibrationSet, model: PlateModel
) -> tuple[Float[Tensor, "pixel exposure threshold"], dict[str, Bool[Tensor, "pixel"]]]:
    """Counts of all pixels in float64, and flags of those that no calibration can use.

    Raises:
        ValueError: no pixel can be used, or the counts are not those above the thresholds.
    """
    counts = plates.counts.flatten(1, -2).movedim(0, 1).double()
    flags = unusable(counts, plates.flags)
    flags = {**flags, "rising with the threshold": _rising(counts) & ~any_of(flags)}
    require_nested(counts[~any_of(flags)], model, plates)
    return counts, flags


def _rising(counts: Float[Tensor, "pixel exposure threshold"]) -> Bool[Tensor, "pixel"]:
    """Pixels that count more above a threshold than above the one below it, beyond noise."""
    lower, upper = counts[..., :-1], counts[..., 1:]
    return (upper - lower > _MOST_RISE * (lower + upper).sqrt()).flatten(1).any(-1)


def require_plates(plates: CalibrationSet, n_unknowns: int) -> None:
    """Raise ValueError for fewer plates than unknowns of a pixel."""
    if len(plates.counts) < n_unknowns:
        raise ValueError(
            f"{len(plates.counts)} exposure(s) do not determine {n_unknowns} numbers of a pixel: "
            "measure more plates (calibration=etb calibration.materials=[CdTe] needs air and one)"
        )


def require_exposure(plates: CalibrationSet, setting: str) -> Float[Tensor, "exposure"]:
    """The exposure of each plate, which a setting such as ``calibration=bct`` needs.

    Raises:
        ValueError: it was not measured.
    """
    if plates.exposure is None:
        raise ValueError(
            f"{setting} needs the exposure of each plate: measure it, set the dataset exposure of "
            "the file to ones if the tube is stable, or use calibration=etb_as_proposed "
            "(calibration.normalisation=model calibration.comparison=counts)"
        )
    return plates.exposure


def spread(values: Tensor, good: Tensor, missing: float | bool | Tensor) -> Tensor:
    """Values of the good pixels among all pixels."""
    full = torch.empty(len(good), *values.shape[1:], dtype=values.dtype)
    full[:] = torch.as_tensor(missing, dtype=values.dtype)
    full[good] = values
    return full
