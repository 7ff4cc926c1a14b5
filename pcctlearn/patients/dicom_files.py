"""Find the CT series in folders of DICOM files."""

import re
from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom import uid
from pydicom.filereader import read_file_meta_info
from pydicom.misc import is_dicom

from pcctlearn.files.names import is_hidden
from pcctlearn.patients.dicom_slice import (
    AGAIN,
    DicomSlice,
    check_same_size,
    check_slice,
    read_header,
)
from pcctlearn.reading.damaged import readable

SUFFIXES = (".dcm", ".dicom", ".ima")
NON_SLICE_MODALITIES = (
    "RTSTRUCT",
    "RTPLAN",
    "RTDOSE",
    "SR",
    "SEG",
    "KO",
    "PR",
    "REG",
    "DOC",
    "OT",
    "FID",
)
CT_CLASSES = (
    uid.CTImageStorage,
    uid.EnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedCTImageStorage,
)
CAPTURES = (
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
)
REPORTS = re.compile(r"SCREEN|DOSE|PROTOCOL| PROT$")  # in ImageType, of GE, Philips and Siemens


def ct_slices(folder: Path, series: str | None) -> list[DicomSlice]:
    """The slices of the only CT series in a folder, or of the series with a SeriesInstanceUID.

    Raises FileNotFoundError if there are no slices, ValueError for any slice that is not CT in HU,
    cannot be decoded or differs from the others in size.
    """
    slices = _one_series(folder, series)
    for s in slices:
        check_slice(s)
        check_same_size(s, slices[0])
    return slices


def dicom_folders(root: str | Path) -> list[Path]:
    """Every folder at or below ``root`` that contains DICOM files, in order.

    Hidden files and folders are ignored, and so is a DICOMDIR, which only lists other files.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give a folder of DICOM files")
    below = sorted(path for path in root.rglob("*") if path.is_dir() and not is_hidden(path, root))
    return [folder for folder in (root, *below) if any(map(_is_dicom_object, _files(folder)))]


def slice_folders(root: str | Path) -> list[Path]:
    """The ``dicom_folders`` that hold more than scouts, reports and screen captures."""
    return [folder for folder in dicom_folders(root) if _holds_slices(folder)]


def series_in(folder: Path) -> list[str]:
    """SeriesInstanceUID of every CT series in a folder, without scouts and reports."""
    by_uid, _ = _by_series(folder)
    return sorted(
        name for name, slices in by_uid.items() if any(s.header.Modality == "CT" for s in slices)
    )


def listed_series(folder: Path) -> str:
    """UID, description, modality and number of files of every series in a folder, as text."""
    return _listed(_by_series(folder)[0])


def _files(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.is_file() and not is_hidden(file, folder)
    )


def _is_dicom_object(file: Path) -> bool:
    """True for a DICOM file other than a DICOMDIR."""
    if file.name.upper() == "DICOMDIR" or not is_dicom(file):
        return False
    with readable(file, "a DICOM file", AGAIN):
        kind = read_file_meta_info(file).get("MediaStorageSOPClassUID")
    return bool(kind != uid.MediaStorageDirectoryStorage)


def _holds_slices(folder: Path) -> bool:
    """True if a folder holds slices. Damaged files count, so that reading reports the fault."""
    for file in filter(_is_dicom_object, _files(folder)):
        try:
            if _non_slice_kind(read_header(file)) is None:
                return True
        except ValueError:
            return True
    return False


def _one_series(folder: Path, series: str | None) -> list[DicomSlice]:
    by_uid, left_out = _by_series(folder)
    if not by_uid:
        raise FileNotFoundError(_without_slices(folder, left_out))
    if series is None and len(by_uid) > 1:
        raise ValueError(
            f"{folder} holds {len(by_uid)} series: choose one with datasets.series=UID, or read "
            f"each as a case with datasets.series=all; the series are {_listed(by_uid)}"
        )
    if series is not None and series not in by_uid:
        raise ValueError(f"{folder} has no series {series!r}; it holds {_listed(by_uid)}")
    return by_uid[series or next(iter(by_uid))]


def _by_series(folder: Path) -> tuple[dict[str, list[DicomSlice]], set[str]]:
    """Slices by SeriesInstanceUID, and the kinds of files that are not slices."""
    by_uid: dict[str, list[DicomSlice]] = {}
    left_out = set()
    for s in _headers(folder):
        if kind := _non_slice_kind(s.header):
            left_out.add(kind)
            continue
        for tag in ("Modality", "SeriesInstanceUID", "Rows"):
            if not s.header.get(tag):
                raise ValueError(
                    f"{s.file} has no {tag}: it is truncated or not an image; copy it again or "
                    "remove it"
                )
        by_uid.setdefault(str(s.header.SeriesInstanceUID), []).append(s)
    return by_uid, left_out


def _listed(by_uid: dict[str, list[DicomSlice]]) -> str:
    return "; ".join(
        f"{name} ({slices[0].header.get('SeriesDescription') or 'no description'}, "
        f"{slices[0].header.Modality}, {len(slices)} files)"
        for name, slices in by_uid.items()
    )


def _headers(folder: Path) -> Iterator[DicomSlice]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder of a DICOM series")
    for file in _files(folder):
        if _is_dicom_object(file):
            yield DicomSlice(file, read_header(file))
        elif file.suffix.lower() in SUFFIXES and not is_dicom(file):
            raise ValueError(f"{file} has no DICOM header; copy it again or remove it")


def _without_slices(folder: Path, left_out: set[str]) -> str:
    """Message for a folder without slices."""
    if left_out:
        found = ", ".join(sorted(left_out))
        return f"no slices in {folder}, only {found}; give the folder of an axial CT series"
    below = slice_folders(folder)
    if below:
        return (
            f"{folder} holds no DICOM files, but {len(below)} folders below it do; give one of "
            f"them, such as {below[0]}"
        )
    n_files = len(_files(folder))
    found = f"none of its {n_files} files is DICOM" if n_files else "it is empty"
    return f"no slices in {folder}: {found}; give the folder of a DICOM series"


def _non_slice_kind(header: pydicom.Dataset) -> str | None:
    """Kind of a file that is not a slice of a volume, such as "scouts"; ``None`` for a slice."""
    image_type = header.get("ImageType") or ()
    words = [image_type] if isinstance(image_type, str) else [str(word) for word in image_type]
    sop_class = header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or ""
    known = uid.UID(str(sop_class)).name  # the UID itself if a truncated file cuts it off
    has_position = header.get("ImagePositionPatient") and header.get("ImageOrientationPatient")
    if "LOCALIZER" in words:
        return "scouts"
    if (
        sop_class in CAPTURES
        or any(REPORTS.search(word) for word in words)
        or ("SECONDARY" in words and not has_position)
    ):
        return "screen captures"
    if header.get("Modality") in NON_SLICE_MODALITIES:
        return str(header.Modality)
    if known != str(sop_class) and sop_class not in CT_CLASSES and not header.get("Rows"):
        return known  # raw data, documents
    return None
