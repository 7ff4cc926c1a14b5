"""SinoCT (Stanford AIMI): head CTs."""

import re
from dataclasses import replace
from pathlib import Path

from pcctlearn.files.names import is_hidden
from pcctlearn.patients.ct_volume import CtVolume
from pcctlearn.patients.dicom_series import read_dicom_series


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


def _numbers(part: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)(\d+)", part)
    return (match[1], int(match[2])) if match else (part, -1)
