"""Which files of a folder are one CT series, and whether each of them can be read as such."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.misc import is_dicom
from pydicom.pixels import get_decoder
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

SUFFIXES = (".dcm", ".dicom", ".ima")
# what pydicom raises on bad bytes
DAMAGED = (
    InvalidDicomError,
    OSError,
    EOFError,
    ValueError,
    AttributeError,
    RuntimeError,
    TypeError,
    BytesLengthException,
    struct.error,
)
NO_SLICES = ("scouts", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "SEG", "KO", "PR", "REG")
IN_HOUNSFIELD = ("HU", "HU_MOD", "US", "")  # rescale types; US is "unspecified"
SAME = {"Rows": 1, "Columns": 1, "PixelSpacing": 2, "ImageOrientationPatient": 6}
NUMBERS = {**SAME, "ImagePositionPatient": 3}
USED = [
    *NUMBERS,
    "ImageType",
    "Modality",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "RescaleType",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
]


@dataclass(frozen=True)
class DicomSlice:
    """One file and its header."""

    file: Path
    header: pydicom.Dataset

    def numbers(self, tag: str) -> np.ndarray:
        """The values of an element."""
        return np.array(self.header[tag].value, dtype=np.float64)

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the slice, to the patient's left, back and head."""
        columns, rows = self.numbers("ImageOrientationPatient").reshape(2, 3)
        return np.cross(columns, rows)

    @property
    def height_mm(self) -> float:
        """Where the slice lies along its normal."""
        return float(self.normal @ self.numbers("ImagePositionPatient"))


def ct_slices(folder: Path, series: str | None) -> list[DicomSlice]:
    """The slices of the one CT series in a folder, or of the one named, scouts left out.

    Raises FileNotFoundError where there are no images, ValueError for any slice that is not CT in
    HU, cannot be decoded or differs from the others in size.
    """
    slices = _one_series(folder, series)
    for s in slices:
        _check_slice(s)
        _check_same(s, slices[0])
    return slices


def dicom_folders(root: str | Path) -> list[Path]:
    """Every folder at or below ``root`` with DICOM files in it, in order."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give a folder of DICOM files")
    folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
    return [folder for folder in folders if any(is_dicom(file) for file in _files(folder))]


def _files(folder: Path) -> list[Path]:
    visible = (file for file in folder.iterdir() if not file.name.startswith("."))
    return sorted(file for file in visible if file.is_file())


def _one_series(folder: Path, wanted: str | None) -> list[DicomSlice]:
    by_uid: dict[str, list[DicomSlice]] = {}
    left_out = set()
    for s in _headers(folder):
        kind = "scouts" if _is_scout(s) else s.header.Modality
        if kind in NO_SLICES:
            left_out.add(kind)
        else:
            by_uid.setdefault(str(s.header.SeriesInstanceUID), []).append(s)
    if not by_uid:
        raise FileNotFoundError(_nothing_there(folder, left_out))
    listed = "; ".join(
        f"{uid} ({slices[0].header.get('SeriesDescription') or 'no description'}, "
        f"{slices[0].header.Modality}, {len(slices)} files)"
        for uid, slices in by_uid.items()
    )
    if wanted is None and len(by_uid) > 1:
        raise ValueError(
            f"{folder} holds {len(by_uid)} series; choose one with series=UID: {listed}"
        )
    if wanted is not None and wanted not in by_uid:
        raise ValueError(f"{folder} has no series {wanted!r}; it holds {listed}")
    return by_uid[wanted or next(iter(by_uid))]


def _headers(folder: Path) -> Iterator[DicomSlice]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder of a DICOM series")
    for file in _files(folder):
        if not is_dicom(file):
            if file.suffix.lower() in SUFFIXES:
                raise ValueError(f"{file} has no DICOM header; copy it again, or remove it")
            continue  # licences, notes
        header = _header(file)
        kind = header.file_meta.get("MediaStorageSOPClassUID")
        if kind == MediaStorageDirectoryStorage:
            continue  # a DICOMDIR lists other files
        image = () if header.get("Modality") in NO_SLICES else ("Rows",)
        for tag in ("Modality", "SeriesInstanceUID", *image):
            if not header.get(tag):
                raise ValueError(
                    f"{file} has no {tag}: it is truncated, or no image; copy it again, or "
                    "remove it"
                )
        yield DicomSlice(file, header)


def _header(file: Path) -> pydicom.Dataset:
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=USED)
        elements = [*header.file_meta, *header]  # each is decoded when it is asked for
        values = {element.keyword: element.value for element in elements}
        for tag in NUMBERS.keys() & values.keys():
            np.array(values[tag], dtype=np.float64)
    except DAMAGED as error:
        raise ValueError(f"{file} has a damaged header ({error}); copy it again") from error
    return header


def _nothing_there(folder: Path, left_out: set[str]) -> str:
    if left_out:
        found = ", ".join(sorted(left_out))
        return f"{folder} holds only {found}, no slices; give the folder of an axial CT series"
    below = dicom_folders(folder)
    if below:
        return (
            f"{folder} holds no DICOM files itself, but {len(below)} folders below it do; give one "
            f"of them, such as {below[0]}"
        )
    n_files = len(_files(folder))
    found = f"{n_files} files, none of them DICOM" if n_files else "nothing"
    return f"{folder} holds {found}; give the folder of a DICOM series, unpacked"


def _is_scout(s: DicomSlice) -> bool:
    return "LOCALIZER" in (s.header.get("ImageType") or ())


def _check_slice(s: DicomSlice) -> None:
    header = s.header
    modality = header.Modality
    if modality != "CT":
        raise ValueError(f"{s.file} is {modality}, not CT; give a CT series in HU")
    if header.get("SamplesPerPixel", 1) != 1:
        raise ValueError(
            f"{s.file} is a colour image ({header.get('PhotometricInterpretation')}), a picture of "
            "a CT; give the series with the original slices"
        )
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise ValueError(
            f"{s.file} holds {header.NumberOfFrames} frames (enhanced CT); convert it with "
            "dcm2niix and read the .nii.gz"
        )
    for tag, n_values in NUMBERS.items():
        if np.size(header.get(tag)) != n_values or header.get(tag) in (None, ""):
            raise ValueError(
                f"{s.file} has no {tag}: it is truncated, or no axial slice; copy it again, or "
                "remove it"
            )
    kind = header.get("RescaleType") or ""
    if kind not in IN_HOUNSFIELD:
        raise ValueError(f"{s.file} holds {kind}, not HU; give the CT series in HU")
    _check_decoder(s)


def _check_decoder(s: DicomSlice) -> None:
    syntax = s.header.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_compressed or syntax == DeflatedExplicitVRLittleEndian:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        needs = "none of pydicom's decoders reads it"
    else:
        if decoder.is_available:
            return
        needs = " or ".join(decoder.missing_dependencies)
    raise ValueError(
        f"{s.file} is compressed as {syntax.name} and there is no decoder for it ({needs}); "
        "install one, or decompress the files with gdcmconv --raw"
    )


def _check_same(s: DicomSlice, first: DicomSlice) -> None:
    for tag in SAME:
        if not np.allclose(s.numbers(tag), first.numbers(tag), rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"{s.file} has {tag} {s.header[tag].value}, {first.file.name} has "
                f"{first.header[tag].value}: slices of one volume agree; move the others away"
            )
