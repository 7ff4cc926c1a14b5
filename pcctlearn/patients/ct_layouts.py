"""Layouts of CT volumes on disk: NIfTI files, DICOM series, KiTS and SinoCT."""

import re
from dataclasses import dataclass
from pathlib import Path

from pcctlearn.files.names import is_hidden
from pcctlearn.patients.ct_cases import Case, CtCases
from pcctlearn.patients.ct_volume import CtVolume
from pcctlearn.patients.dicom_files import dicom_folders, listed_series, series_in, slice_folders
from pcctlearn.patients.dicom_series import read_dicom_series
from pcctlearn.patients.nifti import SUFFIXES, imaging_files, read_nifti


class NiftiCases(CtCases):
    """NIfTI files in HU."""

    expected_path = "a .nii or .nii.gz file in HU, or a folder of them"

    def sources(self, path: Path) -> list[Case]:  # noqa: D102
        return [Case(file) for file in _nifti_files(path)]

    def read(self, case: Case) -> CtVolume:  # noqa: D102
        return read_nifti(case.path, self.straighten)


class KitsCases(CtCases):
    """Cases of KiTS21 and KiTS23: folders with an imaging.nii.gz."""

    expected_path = "a KiTS case, or the root of KiTS21 or KiTS23"

    def sources(self, path: Path) -> list[Case]:  # noqa: D102
        return [Case(file.parent) for file in imaging_files(path)]

    def read(self, case: Case) -> CtVolume:  # noqa: D102
        return read_nifti(case.path, self.straighten)


@dataclass(eq=False)
class DicomCases(CtCases):
    """DICOM series; settings as for ``CtCases``, and two more.

    Args:
        resample: interpolate unevenly spaced slices instead of rejecting them.
        series: SeriesInstanceUID of the series to read, or "all" for each series as a case;
            ``None`` if every folder holds one series.
    """

    expected_path = "the folder of a DICOM series, or a folder of such folders"

    resample: bool = False
    series: str | None = None

    def sources(self, path: Path) -> list[Case]:  # noqa: D102
        folders = _folders_with_slices(path)
        if self.series is not None:
            return _chosen_series(path, folders, self.series)
        return [Case(path)] if folders[0] == path else [Case(folder) for folder in folders]

    def read(self, case: Case) -> CtVolume:  # noqa: D102
        return read_dicom_series(case.path, case.series, self.resample, self.straighten)


@dataclass(eq=False)
class SinoctCases(CtCases):
    """Head CTs of SinoCT (Stanford AIMI); settings as for ``CtCases``, and one more.

    Args:
        resample: interpolate unevenly spaced slices instead of rejecting them.
    """

    expected_path = "the folder with batch_*/series_*, unpacked from SinoCT"

    resample: bool = False

    def sources(self, path: Path) -> list[Case]:  # noqa: D102
        return [Case(folder) for folder in _sinoct_series(path)]

    def read(self, case: Case) -> CtVolume:  # noqa: D102
        folder = case.path / "reconstructed_image"
        return read_dicom_series(folder, None, self.resample, self.straighten)


def _nifti_files(path: Path) -> list[Path]:
    """The file itself, or the .nii and .nii.gz files of a folder, in order."""
    if path.is_file():
        return [path]
    visible = (file for file in path.iterdir() if not is_hidden(file, path))
    files = sorted(file for file in visible if file.name.lower().endswith(SUFFIXES))
    if not files:
        raise FileNotFoundError(f"no .nii or .nii.gz files in {path}; give a folder of CT in HU")
    return files


def _chosen_series(path: Path, folders: list[Path], series: str) -> list[Case]:
    """The CT series of these folders whose SeriesInstanceUID is ``series``, or all of them."""
    found = [Case(folder, name) for folder in folders for name in series_in(folder)]
    chosen = [case for case in found if series in ("all", case.series)]
    if not chosen:
        listed = "; ".join(map(listed_series, folders))
        raise ValueError(f"{path} holds no CT series datasets.series={series}; it holds {listed}")
    return chosen


def _folders_with_slices(path: Path) -> list[Path]:
    """Folders at or below ``path`` that hold DICOM slices, in order."""
    if path.is_file():
        raise ValueError(f"{path} is a file: give its folder, datasets.path={path.parent}")
    folders = slice_folders(path)
    if folders:
        return folders
    if dicom_folders(path):
        raise FileNotFoundError(
            f"no slices in {path} or below, only scouts, reports or screen captures; give the "
            "folder of an axial CT series"
        )
    raise FileNotFoundError(
        f"no DICOM files in {path} or below; give the folder of an axial series"
    )


def _sinoct_series(root: Path) -> list[Path]:
    """Every batch_<n>/series_<i> folder at or below ``root``, in numerical order."""
    found = root.glob("**/batch_*/series_*")
    series = [path for path in found if path.is_dir() and not is_hidden(path, root)]
    if not series:
        raise FileNotFoundError(
            f"no batch_*/series_* folders in {root}; give the folder that SinoCT was unpacked into"
        )
    return sorted(series, key=lambda path: [_text_and_number(part) for part in path.parts])


def _text_and_number(part: str) -> tuple[str, int]:
    """Sorting key that puts series_10 after series_9."""
    match = re.fullmatch(r"(.*?)(\d+)", part)
    return (match[1], int(match[2])) if match else (part, -1)
