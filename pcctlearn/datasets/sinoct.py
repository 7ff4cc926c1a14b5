"""SinoCT (Stanford AIMI): head CTs, their labels, and the folder of their simulated sinograms."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pcctlearn.datasets.ct_volume import CtVolume
from pcctlearn.datasets.dicom_series import read_dicom_series
from pcctlearn.files import is_hidden
from pcctlearn.reading.damaged import readable
from pcctlearn.reading.text import read_text

Sinogram = TypeVar("Sinogram")


def sinoct_series(root: str | Path) -> list[Path]:
    """Every batch_<n>/series_<i> folder at or below ``root``, in the order of their numbers."""
    root = Path(root)
    found = root.glob("**/batch_*/series_*")
    series = [path for path in found if path.is_dir() and not is_hidden(path, root)]
    if not series:
        raise FileNotFoundError(
            f"no batch_*/series_* folders in {root}; give the folder that SinoCT was unpacked into"
        )
    return sorted(series, key=lambda path: [_numbers(part) for part in path.parts])


def read_series(series: str | Path, resample: bool = False, straighten: bool = False) -> CtVolume:
    """The head of one series folder in HU and house axes, from its reconstructed_image/*.dcm."""
    series = Path(series)
    volume = read_dicom_series(
        series / "reconstructed_image", resample=resample, straighten=straighten
    )
    return replace(volume, name=f"{series.parent.name}/{series.name}")


def read_labels(root: str | Path) -> dict[str, dict[str, str]]:
    """Rows of labels.csv by their patient_id, series_<i>; empty where no labels.csv is below."""
    root = Path(root)
    files = sorted(file for file in root.glob("**/labels.csv") if not is_hidden(file, root))
    if not files:
        return {}
    if len(files) > 1:
        raise ValueError(f"{files[0]} and {files[1]} are both labels of {root}; keep one of them")
    remedy = "copy the labels.csv of SinoCT again"
    text = read_text(files[0], "a CSV file", remedy)
    with readable(files[0], "a CSV file", remedy):
        reader = csv.DictReader(io.StringIO(text))
        columns, rows = list(reader.fieldnames or ()), list(reader)
    if "patient_id" not in columns:
        raise ValueError(
            f"{files[0]} has no column patient_id but {columns}; give the labels.csv of SinoCT"
        )
    return {row["patient_id"]: row for row in rows}


def read_sinogram(series: str | Path, reader: Callable[[Path], Sinogram]) -> Sinogram:
    """What ``reader`` makes of the sinogram/ folder of a series; its format is not documented."""
    folder = Path(series) / "sinogram"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there; fetch the sinograms of SinoCT as well")
    return reader(folder)


def _numbers(part: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)(\d+)", part)
    return (match[1], int(match[2])) if match else (part, -1)
