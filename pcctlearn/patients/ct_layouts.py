"""Layouts of CT volumes on disk: NIfTI files, DICOM series, KiTS and SinoCT."""

from pathlib import Path

from pcctlearn.files.names import is_hidden
from pcctlearn.patients.ct_cases import Case, CtCases
from pcctlearn.patients.ct_volume import CtVolume
from pcctlearn.patients.dicom_files import dicom_folders, listed_series, series_in, slice_folders
from pcctlearn.patients.dicom_series import read_dicom_series
from pcctlearn.patients.kits import kits_cases, read_case
from pcctlearn.patients.nifti import SUFFIXES, read_nifti
from pcctlearn.patients.sinoct import read_series, sinoct_series


class NiftiCases(CtCases):
    """NIfTI files in HU."""

    wanted = "a .nii or .nii.gz file in HU, or a folder of them"

    def sources(self, path: Path) -> list[Case]:  # noqa: D102
        return [Case(file) for file in _nifti_files(path)]

    def read(self, case: Case) -> CtVolume:  # noqa: D102
        return read_nifti(case.path, self.straighten)


class KitsCases(CtCases):
    """Cases of KiTS21 and KiTS23."""

    wanted = "a KiTS case, or the root of KiTS21 or KiTS23"

    def sources(self, path: Path) -> list[Case]:  # noqa: D102
        return [Case(folder) for folder in kits_cases(path)]

    def read(self, case: Case) -> CtVolume:  # noqa: D102
        return read_case(case.path, self.straighten)


class DicomCases(CtCases):
    """DICOM series.

    Args:
        resample: interpolate unevenly spaced slices instead of refusing them.
        series: SeriesInstanceUID of the series to read where a folder holds several, or "all" for
            each of them as a case; ``None`` where every folder holds one.
        The others as in ``CtCases``.
    """

    wanted = "the folder of a DICOM series, or a folder of such folders"

    def __init__(
        self,
        path: str | None = None,
        threshold_HU: float = 200.0,
        fit: bool = False,
        limit: int | None = None,
        straighten: bool = False,
        cache: bool = True,
        resample: bool = False,
        series: str | None = None,
    ) -> None:
        self.resample, self.series = resample, series
        super().__init__(path, threshold_HU, fit, limit, straighten, cache)

    def sources(self, path: Path) -> list[Case]:  # noqa: D102
        if self.series is not None:
            return _chosen_series(path, self.series)
        return [Case(folder) for folder in _series_folders(path)]

    def read(self, case: Case) -> CtVolume:  # noqa: D102
        return read_dicom_series(
            case.path, resample=self.resample, straighten=self.straighten, series=case.series
        )


class SinoctCases(CtCases):
    """Head CTs of SinoCT.

    Args:
        resample: interpolate unevenly spaced slices instead of refusing them.
        The others as in ``CtCases``.
    """

    wanted = "the folder with batch_*/series_*, unpacked from SinoCT"

    def __init__(
        self,
        path: str | None = None,
        threshold_HU: float = 200.0,
        fit: bool = False,
        limit: int | None = None,
        straighten: bool = False,
        cache: bool = True,
        resample: bool = False,
    ) -> None:
        self.resample = resample
        super().__init__(path, threshold_HU, fit, limit, straighten, cache)

    def sources(self, path: Path) -> list[Case]:  # noqa: D102
        return [Case(folder) for folder in sinoct_series(path)]

    def read(self, case: Case) -> CtVolume:  # noqa: D102
        return read_series(case.path, self.resample, self.straighten)


def _nifti_files(path: Path) -> list[Path]:
    """The file itself, or the .nii and .nii.gz files of a folder, in order."""
    if path.is_file():
        return [path]
    visible = (file for file in path.iterdir() if not is_hidden(file, path))
    files = sorted(file for file in visible if file.name.lower().endswith(SUFFIXES))
    if not files:
        raise FileNotFoundError(f"no .nii or .nii.gz files in {path}; give a folder of CT in HU")
    return files


def _series_folders(path: Path) -> list[Path]:
    """The folder itself where it holds slices, or the folders below that do."""
    folders = _folders_with_slices(path)
    return folders[:1] if folders[0] == path else folders


def _chosen_series(path: Path, wanted: str) -> list[Case]:
    """The CT series at or below a path whose SeriesInstanceUID is ``wanted``, or all of them."""
    folders = _folders_with_slices(path)
    found = [Case(folder, name) for folder in folders for name in series_in(folder)]
    chosen = [case for case in found if wanted in ("all", case.series)]
    if not chosen:
        listed = "; ".join(map(listed_series, folders))
        raise ValueError(f"{path} holds no CT series datasets.series={wanted}; it holds {listed}")
    return chosen


def _folders_with_slices(path: Path) -> list[Path]:
    if path.is_file():
        raise ValueError(f"{path} is one file: give its folder, datasets.path={path.parent}")
    folders = slice_folders(path)
    if folders:
        return folders
    if dicom_folders(path):
        raise FileNotFoundError(
            f"no slices in {path} or below, only scouts, reports or screen captures; give the "
            "folder of an axial CT series"
        )
    raise FileNotFoundError(f"no DICOM files in {path} or below; give a series, unpacked")
