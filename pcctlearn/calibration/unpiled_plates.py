"""Counts behind plates corrected for pile-up, before pixels are calibrated from them."""

from dataclasses import replace

import torch

from pcctlearn.calibration.dead_times import DeadTimes
from pcctlearn.calibration.plate_file import PlateRecord

BEYOND = "beyond the greatest rate"


def unpiled_plates(record: PlateRecord, dead_times: DeadTimes) -> PlateRecord:
    """The plates as counters without dead time would have measured them.

    The rates of an exposure are its counts over its counting time, so that its frames must have
    about equal rates. Pixels beyond the greatest rate of their counters are flagged.

    Args:
        record: plates with the counting time of each exposure.
        dead_times: of the counters.

    Raises:
        ValueError: counting times are missing, or the dead times belong to other counters.
    """
    plates = record.plates
    if record.time_s is None:
        raise ValueError(
            "dead times need the counting time of each exposure: store it as the dataset time_s, "
            "in s, all frames of an exposure together"
        )
    dead_times.require_scanner(plates.pixel_shape, plates.thresholds_keV)
    beyond = torch.zeros(plates.pixel_shape, dtype=torch.bool)
    counts = torch.empty_like(plates.counts, dtype=torch.float64)
    for exposure, time_s in enumerate(record.time_s.tolist()):
        measured = plates.counts[exposure].double()
        counts[exposure], resolved = dead_times.corrected(measured, time_s)
        beyond |= ~(resolved | measured.isnan()).all(-1)  # NaN: a dead pixel
    if (beyond | counts.isnan().any(-1).any(0)).all():
        raise ValueError(
            "all pixels are beyond the greatest rate of their counters: measure with less tube "
            "current, or correct time_s"
        )
    flags = {**plates.flags, BEYOND: beyond} if beyond.any() else plates.flags
    return replace(record, plates=replace(plates, counts=counts, flags=flags))
