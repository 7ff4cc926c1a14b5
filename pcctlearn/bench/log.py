"""The log of an exposure: a CSV file with a row for each frame."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pcctlearn.reading.text import read_text, shown

_MONITOR, _ANGLE = "monitor", "angle_deg"
_FAR = 10.0  # from the median reading; tubes drift by far less
_WHAT = "a log of frames"
_REMEDY = "write a CSV file with a line monitor and a row for each frame"


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
            number, a reading is not positive or far from the median, or the number of rows is not
            that of the frames.
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
    for name in (_MONITOR, _ANGLE):
        if names.count(name) > 1:
            raise ValueError(f"{where}.log: {path} has two columns {name}: rename one of them")
    for frame, row in enumerate(rows[1:]):
        if len(row) != len(names):
            raise ValueError(
                f"{where}.log: {path} has {len(row)} cells in the row of frame {frame} for "
                f"{len(names)} columns: separate cells by commas, and write decimals with a point"
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
    usual = float(np.median(monitor))
    if (far := ~((monitor < _FAR * usual) & (monitor > usual / _FAR))).any():
        frame = int(far.argmax())
        raise ValueError(
            f"{where}.log: {path} has a monitor reading of {monitor[frame]:g} in frame {frame}, "
            f"and {usual:g} in the median frame: correct it, or leave the frame out of its files "
            "and of the log"
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
