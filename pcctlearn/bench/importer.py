"""Import the raw frames of a bench: a plate file, a scan file and a current series."""

import argparse
import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pcctlearn.bench.description import Bench, read_bench
from pcctlearn.bench.flags import SATURATED, Flags
from pcctlearn.bench.plates import Plate, plate_record
from pcctlearn.bench.scan import ScanFrames
from pcctlearn.bench.scanner import nominal_scanner
from pcctlearn.bench.stacks import read_mask
from pcctlearn.bench.sums import Dark, Reader, Summed, require_beam
from pcctlearn.calibration.dead_time_file import write_series
from pcctlearn.calibration.dead_times import CurrentSeries
from pcctlearn.calibration.plate_file import PlateRecord, plate_faults, write_plates
from pcctlearn.console import say
from pcctlearn.files.atomic import added_whole
from pcctlearn.scans.file import write_scan
from pcctlearn.scans.record import ScanRecord

log = logging.getLogger(__name__)

PLATES, SCAN, SERIES = "plates.h5", "scan.h5", "series.h5"
_MOST_DRIFT = 0.01  # of the air between exposures, relative to the monitor
_MOST_MASKED = 0.5  # share of the pixels of a frame
_USUAL_DEAD_SHARE = 0.05  # max_dead_share of evaluate.py
_KEYS = {PLATES: "plates", SERIES: "currents", SCAN: "scan"}  # of the description
_TERMS = {  # of the files written, and what to do about the raw ones
    "plates_cm": "thickness_cm",
    "set the attribute counted of the file to 'bins'": "add up the bins, from the highest "
    "threshold down, so that the frames hold counts above each threshold",
}


@dataclass(frozen=True)
class Imported:
    """What the frames of a bench give; ``None`` for what was not measured."""

    description: Path
    plates: PlateRecord | None
    scan: ScanRecord | None
    series: CurrentSeries | None
    flags: Flags
    doubts: tuple[str, ...]


def import_bench(file: Path) -> Imported:
    """Read a description and all frames that it names.

    Dark counts are subtracted, frames of an exposure added, and the pixels of gaps, of the mask,
    and those that are noisy or saturated are dead in all files.

    Raises:
        ValueError, FileNotFoundError: what is wrong with which key or file.
    """
    bench = read_bench(file)
    scanner = nominal_scanner(bench)
    masked = np.zeros(bench.panel.raw_shape, bool)
    if bench.mask is not None:
        try:
            masked = read_mask(bench.mask, bench.panel.raw_shape)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{bench.file}: {error}") from None
        if masked.mean() > _MOST_MASKED:
            raise ValueError(
                f"{bench.file}: detector.mask {bench.mask} marks {int(masked.sum())} of "
                f"{masked.size} pixels: mark defective pixels by 1 and all others by 0"
            )
    reader = Reader(bench, masked)
    for exposure in bench.exposures:  # names, sizes and logs are wrong before much is read
        reader.log(exposure, reader.frames(exposure).n_frames)
    views = None if bench.scan is None else ScanFrames(bench, bench.scan, reader)
    dark = reader.dark()
    exposures: dict[Plate, Summed] = {}
    doubts = list(_sum_air(bench, reader, dark, masked, exposures))
    for plate in bench.plates:
        key = tuple((name, cm) for name, cm in (plate.thickness_cm or {}).items() if cm > 0)
        each = reader.summed(plate)
        exposures[key] = exposures[key] + each if key in exposures else each
    currents = [reader.summed(each) for each in bench.currents]
    every = [*exposures.values(), *currents, *([views.total] if views else [])]
    noisy, saturated = np.zeros_like(masked), np.zeros_like(masked)
    for each in every:
        noisy |= dark.subtracted(each)[1]
        saturated |= each.saturated
    flags = Flags(bench.panel, {"masked": masked, SATURATED: saturated, "noisy": noisy})
    return Imported(
        bench.file,
        plate_record(bench, scanner, exposures, dark, flags) if bench.plates else None,
        None if views is None else views.record(scanner, exposures[()], dark, flags),
        _series(bench, currents, dark, flags) if currents else None,
        flags,
        tuple(doubts),
    )


def write_imported(folder: Path, imported: Imported) -> list[Path]:
    """Write the files to a folder, all or none; earlier ones of these names are replaced.

    Raises:
        ValueError: the first fault of a file, which ``pcctlearn check`` would find.
        OSError: the disk is full, or the folder cannot be written to.
    """
    existed = folder.exists()
    try:
        return _written(folder, imported)
    except (ValueError, OSError):
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _written(folder: Path, imported: Imported) -> list[Path]:
    with added_whole(folder, SCAN) as part:
        try:
            if imported.plates is not None:
                write_plates(part / PLATES, imported.plates)
                if wrong := plate_faults(part / PLATES):
                    raise ValueError(f"{part / PLATES} is not written: {wrong[0]}")
            if imported.series is not None:
                write_series(part / SERIES, imported.series)
            if imported.scan is not None:
                write_scan(part / SCAN, imported.scan)
        except ValueError as error:
            raise ValueError(_of_frames(str(error), part, imported.description)) from None
        written = [name for name in (PLATES, SERIES, SCAN) if (part / name).exists()]
        for name in (PLATES, SERIES, SCAN):
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name in written]


def _of_frames(fault: str, part: Path, description: Path) -> str:
    """A fault of a file in the words of the description, which is what can be changed."""
    for name, key in _KEYS.items():
        fault = fault.replace(f"{part / name} is not written: ", f"{description}: {key}: ")
    for term, own in _TERMS.items():
        fault = fault.replace(term, own)
    return fault


def import_frames(arguments: Sequence[str] | None = None) -> None:
    """Import the frames that a description names, and say what to do next."""
    parser = argparse.ArgumentParser(
        prog="pcctlearn import",
        description="Raw frames of a bench to plate and scan files (docs/bench.md).",
    )
    parser.add_argument("bench", metavar="BENCH.yaml", type=Path, help="description of the bench")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder for the files")
    words = parser.parse_args(arguments)
    imported = import_bench(words.bench)
    for path in write_imported(words.folder, imported):
        say(f"wrote {path}")
    say(f"{imported.flags}")
    for doubt in imported.doubts:
        say(f"warning: {doubt}")
    for line in _next(words.folder, imported):
        say(line)


def _sum_air(
    bench: Bench, reader: Reader, dark: Dark, masked: np.ndarray, exposures: dict[Plate, Summed]
) -> list[str]:
    """Add the exposures of air; a sentence if they differ by more than the monitor says."""
    doubts, levels = [], []
    for exposure in bench.air:
        each = reader.summed(exposure)
        require_beam(bench, dark, each, masked)
        exposures[()] = exposures[()] + each if () in exposures else each
        net = dark.subtracted(each)[0][:, ~masked]
        levels.append(np.median(net, 1) / each.monitor)
    if len(levels) > 1 and (np.ptp(levels, 0) > _MOST_DRIFT * np.mean(levels, 0)).any():
        percent = 100 * float((np.ptp(levels, 0) / np.mean(levels, 0)).max())
        doubts.append(
            f"air differs by {percent:.3g} % between its exposures, readings of the monitor taken "
            "into account: detector or monitor drifted, so measure air more often"
        )
    return doubts


def _series(bench: Bench, currents: Sequence[Summed], dark: Dark, flags: Flags) -> CurrentSeries:
    if bench.frame_s is None:
        raise ValueError(
            f"{bench.file}: currents need frame_s: give the counting time of a frame in seconds"
        )
    net = np.stack([dark.subtracted(each)[0] for each in currents])
    counts = torch.from_numpy(bench.panel.spread(net, np.nan)).movedim(1, -1)
    dead = torch.from_numpy(flags.dead())[..., None]
    try:
        return CurrentSeries(
            torch.tensor([each.current_mA or 0.0 for each in bench.currents], dtype=torch.float64),
            counts.masked_fill(dead, torch.nan),
            torch.tensor([bench.frame_s * each.n_frames for each in currents], dtype=torch.float64),
            torch.tensor(bench.thresholds_keV, dtype=torch.float64),
        )
    except ValueError as error:
        raise ValueError(f"{bench.file}: currents: {error}") from None


def _next(folder: Path, imported: Imported) -> list[str]:
    """The commands that use the files."""
    lines = []
    pixels = ""
    if imported.plates is not None:
        counts = shlex.quote(f"counts={folder / PLATES}")
        lines.append(f"next: python calibrate.py {counts} folder=PIXELS")
        pixels = " pixel_model=PIXELS/pixel_model.h5"
    if imported.scan is not None:
        share = ""
        if imported.flags.share > _USUAL_DEAD_SHARE:
            share = f" max_dead_share={math.ceil(100 * imported.flags.share + 1) / 100:g}"
        scans = shlex.quote(f"scans={folder / SCAN}")
        lines.append(f"next: python evaluate.py {scans} scatter=none{pixels}{share}")
    return lines
