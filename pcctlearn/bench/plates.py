"""Counts behind plates from the frames of a bench."""

import numpy as np
import torch
from torch import Tensor

from pcctlearn.bench.description import Bench
from pcctlearn.bench.flags import Flags
from pcctlearn.bench.scanner import Scanner
from pcctlearn.bench.sums import Dark, Summed
from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.plate_file import PlateRecord

Plate = tuple[tuple[str, float], ...]  # materials and thicknesses; empty: air


def plate_record(
    bench: Bench, scanner: Scanner, exposures: dict[Plate, Summed], dark: Dark, flags: Flags
) -> PlateRecord:
    """Net counts of every plate, all of its frames together, with the sum of its monitor readings.

    Exposures of the same plate were added. Pixels that must not be used are NaN.

    Raises:
        ValueError: the counts contradict one another.
    """
    materials = tuple(dict.fromkeys(name for plate in exposures for name, _ in plate))
    plates_cm = torch.tensor(
        [[dict(plate).get(name, 0.0) for name in materials] for plate in exposures],
        dtype=torch.float64,
    )
    monitor = torch.tensor([each.monitor for each in exposures.values()], dtype=torch.float64)
    net = np.stack([dark.subtracted(each)[0] for each in exposures.values()])
    dead = flags.dead()
    counts = torch.from_numpy(bench.panel.spread(net, np.nan)).movedim(1, -1)
    try:
        plates = CalibrationSet(
            counts.masked_fill(torch.from_numpy(dead)[..., None], torch.nan),
            plates_cm,
            materials,
            torch.tensor(bench.thresholds_keV, dtype=torch.float64),
            monitor / monitor.mean(),
            _used(flags),
        )
    except ValueError as error:
        raise ValueError(f"{bench.file}: plates: {error}") from None
    frames = torch.tensor([each.n_frames for each in exposures.values()], dtype=torch.float64)
    return PlateRecord(
        bench.name,
        plates,
        scanner.spectrum,
        scanner.response,
        frames,
        None if bench.frame_s is None else bench.frame_s * frames,
        bench.tube_kV,
        software="pcctlearn",
    )


def _used(flags: Flags) -> dict[str, Tensor]:
    saturated = flags.saturated()
    return {
        "dead": torch.from_numpy(flags.dead() & ~saturated),
        "saturated": torch.from_numpy(saturated),
    }
