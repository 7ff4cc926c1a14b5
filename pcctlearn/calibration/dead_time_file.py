"""Files of current series and of dead times (docs/dead_time.md)."""

from pathlib import Path

import torch

from pcctlearn.calibration.dead_times import CurrentSeries, DeadTimes
from pcctlearn.calibration.stored import (
    Contents,
    FileSchema,
    read_stored,
    stored_faults,
    write_stored,
)
from pcctlearn.scans.schema import StoredArray

_COUNTED = ("infinite", "negative")  # NaN is a dead pixel
_FITTED = ("infinite", "negative")  # NaN where the fit failed
_TEXTS = {"name": str, "config": str, "software": str}
_OF_COUNTERS = "threshold | pixel threshold | row column threshold"

CURRENT_SERIES = FileSchema(
    title="pcctlearn current series",
    version=1,
    page="docs/dead_time.md",
    arrays={
        "counts": StoredArray(
            "current threshold row column | current threshold pixel",
            "photons",
            refused=_COUNTED,
            required=True,
        ),
        "current_mA": StoredArray("current", "mA", required=True),
        "time_s": StoredArray("current", "s", required=True),
        "thresholds_keV": StoredArray("threshold", "keV", required=True, increases=True),
    },
    names={},
    choices={"counted": ("above",)},
    attributes=_TEXTS,
)

DEAD_TIMES = FileSchema(
    title="pcctlearn dead times",
    version=1,
    page="docs/dead_time.md",
    arrays={
        "paralysable_s": StoredArray(
            _OF_COUNTERS, "s", refused=_FITTED, required=True, any_magnitude=True
        ),
        "nonparalysable_s": StoredArray(
            _OF_COUNTERS, "s", refused=_FITTED, required=True, any_magnitude=True
        ),
        "thresholds_keV": StoredArray("threshold", "keV", required=True, increases=True),
        "misfit": StoredArray(_OF_COUNTERS, "1", refused=_FITTED, any_magnitude=True),
        "covariance_s2": StoredArray(
            "threshold time time | pixel threshold time time | row column threshold time time",
            "s2",
            refused=("infinite",),
            any_magnitude=True,
        ),
    },
    names={},
    choices={},
    attributes={"series": str, "series_sha256": str, **_TEXTS},
)


def series_faults(path: str | Path) -> list[str]:
    """All faults of a current series, one sentence each; empty for a valid one."""
    if wrong := stored_faults(Path(path), CURRENT_SERIES):
        return wrong
    try:
        _series(read_stored(Path(path), CURRENT_SERIES))
    except ValueError as error:
        return [str(error)]
    return []


def read_series(path: str | Path) -> CurrentSeries:
    """Read a current series.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the first fault of the file.
    """
    contents = read_stored(Path(path), CURRENT_SERIES)
    try:
        return _series(contents)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_series(path: str | Path, series: CurrentSeries, **attributes: str) -> None:
    """Write a current series, whole or not at all, and only if it is valid.

    Raises:
        ValueError: the first fault. OSError: the disk is full, or the folder cannot be written to.
    """
    arrays = {
        "counts": series.counts.movedim(-1, 1),
        "current_mA": series.current_mA,
        "time_s": series.time_s,
        "thresholds_keV": series.thresholds_keV,
    }
    contents = Contents(arrays, {}, {**attributes, "counted": "above"})
    write_stored(Path(path), CURRENT_SERIES, contents)


def dead_time_faults(path: str | Path) -> list[str]:
    """All faults of a file of dead times, one sentence each; empty for a valid one."""
    return stored_faults(Path(path), DEAD_TIMES)


def read_dead_times(path: str | Path) -> DeadTimes:
    """Read dead times.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the first fault of the file.
    """
    arrays = read_stored(Path(path), DEAD_TIMES).arrays
    tp, tn = arrays["paralysable_s"], arrays["nonparalysable_s"]
    known = tp.isfinite() & tn.isfinite()
    unknown = torch.full_like(tp, torch.nan)
    covariance = arrays.get("covariance_s2", unknown[..., None, None].expand(*tp.shape, 2, 2))
    misfit = arrays.get("misfit", unknown)
    return DeadTimes(tp, tn, covariance, misfit, known, arrays["thresholds_keV"])


def write_dead_times(path: str | Path, found: DeadTimes, **attributes: str) -> None:
    """Write dead times, whole or not at all; NaN where the fit failed.

    Raises:
        ValueError: the first fault. OSError: the disk is full, or the folder cannot be written to.
    """
    failed = ~found.converged
    arrays = {
        "paralysable_s": found.paralysable_s.masked_fill(failed, torch.nan),
        "nonparalysable_s": found.nonparalysable_s.masked_fill(failed, torch.nan),
        "thresholds_keV": found.thresholds_keV,
        "misfit": found.misfit.masked_fill(failed, torch.nan),
        "covariance_s2": found.covariance_s2,
    }
    write_stored(Path(path), DEAD_TIMES, Contents(arrays, {}, dict(attributes)))


def _series(contents: Contents) -> CurrentSeries:
    arrays = contents.arrays
    return CurrentSeries(
        arrays["current_mA"],
        arrays["counts"].movedim(1, -1),
        arrays["time_s"],
        arrays["thresholds_keV"],
    )
