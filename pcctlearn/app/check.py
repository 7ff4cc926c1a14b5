"""Print the contents of the files of this project, or a numbered list of their faults."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pcctlearn.calibration.dead_time_file import (
    CURRENT_SERIES,
    DEAD_TIMES,
    dead_time_faults,
    series_faults,
)
from pcctlearn.calibration.pixel_model_file import (
    PIXEL_MODEL,
    pixel_model_faults,
    read_pixel_model,
)
from pcctlearn.calibration.plate_file import PLATES, plate_faults, read_plates
from pcctlearn.calibration.stored import FileSchema, listed_arrays, schema_of
from pcctlearn.scans.file import faults as scan_faults
from pcctlearn.scans.file import summary as scan_summary

Kind = tuple[Callable[[Path], list[str]], Callable[[Path], str]]


def check_files(arguments: Sequence[str] | None = None) -> int:
    """Print the contents of each file, or its faults; return 1 if there are any."""
    parser = argparse.ArgumentParser(
        prog="pcctlearn check",
        description="Check the files of this project against docs/.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path)
    status = 0
    for path in parser.parse_args(arguments).files:
        faults, summary = _kind_of(path)
        wrong = faults(path)
        status = max(status, int(bool(wrong)))
        print(f"{path}: {f'{len(wrong)} fault(s)' if wrong else 'valid'}")
        lines = [f"{i}. {fault}" for i, fault in enumerate(wrong, 1)]
        print("\n".join(f"  {line}" for line in lines or summary(path).splitlines()))
    return status


def _kind_of(path: Path) -> Kind:
    """The checks of a file; a file without a known schema is checked as a scan."""
    kinds: dict[str, Kind] = {
        PLATES.title: (plate_faults, _plate_summary),
        PIXEL_MODEL.title: (pixel_model_faults, _pixel_model_summary),
        CURRENT_SERIES.title: (series_faults, partial(_arrays_of, CURRENT_SERIES)),
        DEAD_TIMES.title: (dead_time_faults, partial(_arrays_of, DEAD_TIMES)),
    }
    title = schema_of(path) if path.is_file() else ""
    return kinds.get(title, (scan_faults, scan_summary))


def _arrays_of(schema: FileSchema, path: Path) -> str:
    return "\n".join(listed_arrays(path, schema))


def _plate_summary(path: Path) -> str:
    record = read_plates(path)
    plates = record.plates
    lines = [f"name: {record.name}", *listed_arrays(path, PLATES)]
    for index in range(len(plates.counts)):
        typical = plates.counts[index].flatten(0, -2).nanmedian(0).values.tolist()
        counts = ", ".join(f"{n:.4g}" for n in typical)
        lines.append(f"exposure {index}: {plates.named(index)}; median counts {counts}")
    for kind, flagged in plates.flags.items():
        lines.append(f"{int(flagged.sum())} pixels marked {kind}")
    return "\n".join(lines)


def _pixel_model_summary(path: Path) -> str:
    pixels = read_pixel_model(path)
    lines = [f"{k}: {v}" for k, v in pixels.provenance.items() if k != "config"]
    lines += listed_arrays(path, PIXEL_MODEL)
    lines.append(f"gauge: {pixels.gauge}; skew of {', '.join(pixels.materials)}")
    for kind, flagged in pixels.flags.items():
        if flagged.any():
            lines.append(f"{int(flagged.sum())} pixels {kind}")
    lines += [f"warning: {warning}" for warning in pixels.warnings]
    return "\n".join(lines)
