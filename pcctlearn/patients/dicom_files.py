"""Which files of a folder are one CT series, and whether each of them can be read as such."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.filereader import read_file_meta_info
from pydicom.misc import is_dicom
from pydicom.pixels import get_decoder

from pcctlearn.files.names import is_hidden
from pcctlearn.reading.damaged import readable
from pcctlearn.reading.sizes import require_size

SUFFIXES = (".dcm", ".dicom", ".ima")
AGAIN = "download or copy it again"
NO_SLICES = ("RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "SEG", "KO", "PR", "REG", "DOC", "OT", "FID")
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
    "SOPClassUID",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
]
_MOST_INFLATED_BYTES = 2**28  # of a slice: one of 8192 × 8192 pixels has half of it


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
    """Every folder at or below ``root`` with DICOM files in it, in order.

    Hidden files and folders do not count, nor does a DICOMDIR, which lists other files.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give a folder of DICOM files")
    below = sorted(path for path in root.rglob("*") if path.is_dir() and not is_hidden(path, root))
    return [folder for folder in (root, *below) if any(map(_is_data, _files(folder)))]


def slice_folders(root: str | Path) -> list[Path]:
    """Those of ``dicom_folders`` that hold more than scouts, reports and screen captures."""
    return [folder for folder in dicom_folders(root) if _holds_slices(folder)]


def series_in(folder: Path) -> list[str]:
    """The SeriesInstanceUID of every CT series in a folder, scouts and reports left out."""
    by_uid, _ = _by_series(folder)
    return sorted(
        name for name, slices in by_uid.items() if any(s.header.Modality == "CT" for s in slices)
    )


def listed_series(folder: Path) -> str:
    """UID, description, modality and number of files of every series in a folder."""
    return _listed(_by_series(folder)[0])


def _files(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.is_file() and not is_hidden(file, folder)
    )


def _is_data(file: Path) -> bool:
    """Whether it is a DICOM file other than a DICOMDIR."""
    if file.name.upper() == "DICOMDIR" or not is_dicom(file):
        return False
    with readable(file, "a DICOM file", AGAIN):
        kind = read_file_meta_info(file).get("MediaStorageSOPClassUID")
    return bool(kind != uid.MediaStorageDirectoryStorage)


def _holds_slices(folder: Path) -> bool:
    """Damaged files count as slices, so that reading the series reports what is wrong with them."""
    for file in filter(_is_data, _files(folder)):
        try:
            if _no_slice(_header(file)) is None:
                return True
        except ValueError:
            return True
    return False


def _one_series(folder: Path, wanted: str | None) -> list[DicomSlice]:
    by_uid, left_out = _by_series(folder)
    if not by_uid:
        raise FileNotFoundError(_nothing_there(folder, left_out))
    if wanted is None and len(by_uid) > 1:
        raise ValueError(
            f"{folder} holds {len(by_uid)} series: choose one with datasets.series=UID, or read "
            f"each as a case with datasets.series=all: {_listed(by_uid)}"
        )
    if wanted is not None and wanted not in by_uid:
        raise ValueError(f"{folder} has no series {wanted!r}; it holds {_listed(by_uid)}")
    return by_uid[wanted or next(iter(by_uid))]


def _by_series(folder: Path) -> tuple[dict[str, list[DicomSlice]], set[str]]:
    """Slices by their SeriesInstanceUID, and the kinds of the files that are not slices."""
    by_uid: dict[str, list[DicomSlice]] = {}
    left_out = set()
    for s in _headers(folder):
        if kind := _no_slice(s.header):
            left_out.add(kind)
            continue
        for tag in ("Modality", "SeriesInstanceUID", "Rows"):
            if not s.header.get(tag):
                raise ValueError(
                    f"{s.file} has no {tag}: it is truncated or not an image; copy it again, or "
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
        if _is_data(file):
            yield DicomSlice(file, _header(file))
        elif file.suffix.lower() in SUFFIXES and not is_dicom(file):
            raise ValueError(f"{file} has no DICOM header; copy it again, or remove it")


def _header(file: Path) -> pydicom.Dataset:
    require_inflatable(file)
    with readable(file, "a DICOM file with a sound header", AGAIN):
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=USED)
        syntax = header.file_meta.get("TransferSyntaxUID")
        if syntax is not None and not uid.UID(syntax).is_transfer_syntax:
            raise ValueError(f"its transfer syntax is {syntax!r}")
        elements = [*header.file_meta, *header]  # each is decoded when it is asked for
        values = {element.keyword: element.value for element in elements}
        for tag in NUMBERS.keys() & values.keys():
            if not np.isfinite(np.array(values[tag] or 0, dtype=np.float64)).all():
                raise ValueError(f"{tag} is {values[tag]}")
    return header


def require_inflatable(file: Path) -> None:
    """Refuse a deflated file that would fill the memory: pydicom inflates it as a whole."""
    with readable(file, "a DICOM file", AGAIN):
        meta = read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
            return
        with file.open("rb") as stream:
            stream.seek(144 + int(meta.FileMetaInformationGroupLength))  # preamble and its length
            n_bytes = len(
                zlib.decompressobj(-zlib.MAX_WBITS).decompress(
                    stream.read(_MOST_INFLATED_BYTES), _MOST_INFLATED_BYTES + 1
                )
            )
    require_size(file, n_bytes, AGAIN, _MOST_INFLATED_BYTES)


def _nothing_there(folder: Path, left_out: set[str]) -> str:
    if left_out:
        found = ", ".join(sorted(left_out))
        return f"{folder} holds only {found}, no slices; give the folder of an axial CT series"
    below = slice_folders(folder)
    if below:
        return (
            f"{folder} holds no DICOM files itself, but {len(below)} folders below it do; give one "
            f"of them, such as {below[0]}"
        )
    n_files = len(_files(folder))
    found = f"{n_files} files, none of them DICOM" if n_files else "nothing"
    return f"{folder} holds {found}; give the folder of a DICOM series, unpacked"


def _no_slice(header: pydicom.Dataset) -> str | None:
    """Kind of a file that is not a slice of a volume, such as a scout; ``None`` for a slice."""
    image_type = header.get("ImageType") or ()
    words = [image_type] if isinstance(image_type, str) else [str(word) for word in image_type]
    sop_class = header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or ""
    known = uid.UID(str(sop_class)).name  # the UID itself where a truncated file cuts it
    placed = header.get("ImagePositionPatient") and header.get("ImageOrientationPatient")
    if "LOCALIZER" in words:
        return "scouts"
    if (
        sop_class in CAPTURES
        or any(REPORTS.search(word) for word in words)
        or ("SECONDARY" in words and not placed)
    ):
        return "screen captures"
    if header.get("Modality") in NO_SLICES:
        return str(header.Modality)
    if known != str(sop_class) and sop_class not in CT_CLASSES and not header.get("Rows"):
        return known  # raw data, documents
    return None


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
    directions = s.numbers("ImageOrientationPatient").reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=0.01):
        raise ValueError(
            f"{s.file} is damaged: its ImageOrientationPatient {directions.ravel().tolist()} is "
            f"not two unit vectors at right angles; {AGAIN}"
        )
    if not (s.numbers("PixelSpacing") > 0).all():
        raise ValueError(f"{s.file} has a PixelSpacing that is not positive; {AGAIN}")
    kind = header.get("RescaleType") or ""
    if kind not in IN_HOUNSFIELD:
        raise ValueError(f"{s.file} holds {kind}, not HU; give the CT series in HU")
    _check_decoder(s)


def _check_decoder(s: DicomSlice) -> None:
    syntax = s.header.file_meta.get("TransferSyntaxUID")
    if not is_encoded(syntax):
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise ValueError(
            f"{s.file} is compressed as {syntax.name}, which no installed package decodes; "
            f"{decoder_remedy(syntax)}"
        )


def is_encoded(syntax: uid.UID | None) -> bool:
    """Whether pixels are compressed one by one, as RLE or JPEG."""
    deflated = uid.DeflatedExplicitVRLittleEndian
    return syntax is not None and syntax.is_compressed and syntax != deflated


def decoder_remedy(syntax: uid.UID) -> str:
    """How to read files of a compressed syntax."""
    raw = "decompress each file with: gdcmconv --raw FILE NEW_FILE"
    try:
        needed = " ".join(get_decoder(syntax).missing_dependencies)
    except NotImplementedError:
        return raw
    packages = re.findall(r"(pylibjpeg[\w-]*)>=", needed)
    return f"type: pip install {' '.join(packages)}, or {raw}"


def _check_same(s: DicomSlice, first: DicomSlice) -> None:
    for tag in SAME:
        if not np.allclose(s.numbers(tag), first.numbers(tag), rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"{s.file} has {tag} {s.header[tag].value}, {first.file.name} has "
                f"{first.header[tag].value}: slices of one volume agree; move the others away"
            )
