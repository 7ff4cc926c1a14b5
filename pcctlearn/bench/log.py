"""The log of an exposure: a CSV file with a row for each frame."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pcctlearn.reading.text import read_text, shown

_MONITOR, _ANGLE = "monitor", "angle_deg"
_WHAT, _REMEDY = "a log of frames", "write a CSV file with a line monitor and a row for each frame"


class FrameLog(NamedTuple):
    """Reading of the exposure monitor, and angle of the rotation, in each frame."""

    monitor: Float[np.ndarray, "frame"]
    angle_deg: Float[np.ndarray, "frame"] | None


def read_log(where: str, path: Path, n_frames: int) -> FrameLog:
    """Read the columns ``monitor`` and, if there is one, ``angle_deg``; others are ignored.

    Args:
        where: what was measured, for messages.
        path: a CSV file whose first line names the columns.
        n_frames: of the measurement.

    Raises:
        FileNotFoundError: there is no such file. ValueError: a column is missing, a cell holds no
            number, a reading is not positive, or the number of rows is not that of the frames.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{where}.log: there is no file {path}: {_REMEDY}")
    lines = [line for line in read_text(path, _WHAT, _REMEDY).splitlines() if line.strip()]
    rows = list(csv.reader(lines))
    names = [name.strip() for name in rows[0]] if rows else []
    if _MONITOR not in names:
        found = shown(", ".join(names)) or "nothing"
        raise ValueError(
            f"{where}.log: {path} must have a column {_MONITOR}, its first line has {found}: name "
            "the column with the readings of the exposure monitor so"
        )
    if len(rows) - 1 != n_frames:
        raise ValueError(
            f"{where}.log: {path} has {len(rows) - 1} rows for {n_frames} frames: give a row for "
            "each frame, or correct raw.dtype, detector.n_rows and n_columns if there are others"
        )
    monitor = _column(where, path, names.index(_MONITOR), rows)
    if (dark := ~(monitor > 0)).any():
        frame = int(dark.argmax())
        raise ValueError(
            f"{where}.log: {path} has a monitor reading of {monitor[frame]:g} in frame {frame}: "
            "was the beam off? Leave the frame out of its files and of the log, or correct it"
        )
    angle = _column(where, path, names.index(_ANGLE), rows) if _ANGLE in names else None
    return FrameLog(monitor, angle)


def _column(where: str, path: Path, index: int, rows: list[list[str]]) -> np.ndarray:
    values = np.empty(len(rows) - 1)
    for frame, row in enumerate(rows[1:]):
        cell = row[index].strip() if index < len(row) else ""
        try:
            values[frame] = float(cell)
        except ValueError:
            values[frame] = np.inf
        if not np.isfinite(values[frame]):
            raise ValueError(
                f"{where}.log: {path} has {shown(cell) or 'nothing'!r} as {rows[0][index].strip()} "
                f"of frame {frame}: give a number"
            )
    return values
