"""Counts of a scan file corrected for pile-up, before anything else is done with them."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pcctlearn.calibration.dead_times import DeadTimes
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.scans.flat_field import Pixels
from pcctlearn.scans.record import ScanRecord


def unpiled(
    path: Path, recorded: ScanRecord, dead_times: DeadTimes, view_s: float | None = None
) -> tuple[ScanRecord, dict[str, Pixels]]:
    """The scan as counters without dead time would have made it, and unresolved pixels by kind.

    Counts and air are corrected above each threshold; bins that noise makes negative are zero.

    Args:
        path: of the file, for error messages.
        recorded: the scan.
        dead_times: of its counters.
        view_s: counting time of a view, and of the air, if the file does not hold it.

    Raises:
        ValueError: the counting time is unknown, or the dead times belong to other counters.
    """
    view_s = view_s if recorded.view_s is None else recorded.view_s
    if view_s is not None and view_s <= 0:
        raise ValueError(
            f"the root attribute view_s of {path} must be positive, got {view_s:g}: store the "
            "counting time of a view in seconds, or delete it and give view_s=0.05"
        )
    if view_s is None:
        raise ValueError(
            f"{path} does not say how long a view counts, which dead times need: give view_s=0.05 "
            "for 50 ms, or store it as the root attribute view_s"
        )
    edges = recorded.thresholds_keV.reshape(-1, len(recorded.air) + 1)
    try:
        dead_times.require_scanner(tuple(recorded.air.shape[1:]), edges[0, :-1])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    counts, of_counts = _corrected(recorded.at("counts"), dead_times, view_s)
    air, of_air = _corrected(recorded.air[:, None], dead_times, view_s)
    unknown = dead_times.unknown.expand(recorded.air.shape[1:])
    kinds = {
        "without dead times": unknown,
        "beyond the greatest rate": ~(of_counts & of_air) & ~unknown,
    }
    return replace(recorded, counts=counts, air=air[:, 0]), kinds


def _corrected(counts: Tensor, dead_times: DeadTimes, view_s: float) -> tuple[Tensor, Pixels]:
    """Counts in bins (bin, view, row, column), and the pixels resolved in all views."""
    views, resolved = [], torch.ones(counts.shape[2:], dtype=torch.bool)
    for view in counts.unbind(1):
        above = above_from_bins(view.movedim(0, -1).double())
        true, good = dead_times.corrected(above, view_s)
        resolved &= (good | above.isnan()).all(-1)  # NaN: a dead pixel
        views.append(bins_from_above(true).clamp(min=0).movedim(-1, 0).to(counts))
    return torch.stack(views, 1), resolved
