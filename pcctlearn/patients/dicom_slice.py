"""One DICOM slice: its header, and checks that it is an axial CT slice in HU."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import get_decoder

from pcctlearn.reading.damaged import readable
from pcctlearn.reading.sizes import require_size

AGAIN = "download or copy it again"
HU_RESCALE_TYPES = ("HU", "HU_MOD", "US", "")  # US is "unspecified"
# numeric elements and their numbers of values; those of SHARED must agree in a series
SHARED = {"Rows": 1, "Columns": 1, "PixelSpacing": 2, "ImageOrientationPatient": 6}
NUMERIC = {**SHARED, "ImagePositionPatient": 3}
READ_ELEMENTS = [
    *NUMERIC,
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
_MOST_INFLATED_BYTES = 2**28  # of a slice; 8192 × 8192 pixels need half of this


@dataclass(frozen=True)
class DicomSlice:
    """One file and its header."""

    file: Path
    header: pydicom.Dataset

    def numbers(self, tag: str) -> np.ndarray:
        """Values of an element."""
        return np.array(self.header[tag].value, dtype=np.float64)

    @property
    def normal(self) -> np.ndarray:
        """Unit normal of the slice in patient coordinates (left, back, head)."""
        columns, rows = self.numbers("ImageOrientationPatient").reshape(2, 3)
        return np.cross(columns, rows)

    @property
    def height_mm(self) -> float:
        """Position of the slice along its normal."""
        return float(self.normal @ self.numbers("ImagePositionPatient"))


def read_header(file: Path) -> pydicom.Dataset:
    """Read and decode the elements of READ_ELEMENTS, without the pixels."""
    require_inflatable(file)
    with readable(file, "a DICOM file with a sound header", AGAIN):
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=READ_ELEMENTS)
        syntax = header.file_meta.get("TransferSyntaxUID")
        if syntax is not None and not uid.UID(syntax).is_transfer_syntax:
            raise ValueError(f"its transfer syntax is {syntax!r}")
        elements = [*header.file_meta, *header]  # an element is decoded on first access
        values = {element.keyword: element.value for element in elements}
        for tag in NUMERIC.keys() & values.keys():
            if not np.isfinite(np.array(values[tag] or 0, dtype=np.float64)).all():
                raise ValueError(f"{tag} is {values[tag]}")
    return header


def require_inflatable(file: Path) -> None:
    """Reject a deflated file that would fill the memory, because pydicom inflates all of it."""
    with readable(file, "a DICOM file", AGAIN):
        meta = read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
            return
        with file.open("rb") as stream:
            stream.seek(144 + int(meta.FileMetaInformationGroupLength))  # 144: preamble and length
            n_bytes = len(
                zlib.decompressobj(-zlib.MAX_WBITS).decompress(
                    stream.read(_MOST_INFLATED_BYTES), _MOST_INFLATED_BYTES + 1
                )
            )
    require_size(file, n_bytes, AGAIN, _MOST_INFLATED_BYTES)


def check_slice(s: DicomSlice) -> None:
    """Raise ValueError unless a slice is single-frame CT in HU, positioned and decodable."""
    header = s.header
    modality = header.Modality
    if modality != "CT":
        raise ValueError(f"{s.file} has modality {modality}, not CT; give a CT series in HU")
    if header.get("SamplesPerPixel", 1) != 1:
        raise ValueError(
            f"{s.file} is a color image ({header.get('PhotometricInterpretation')}), not a CT "
            "slice; give the series with the original slices"
        )
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise ValueError(
            f"{s.file} holds {header.NumberOfFrames} frames (enhanced CT); convert it with "
            "dcm2niix and read the .nii.gz"
        )
    for tag, n_values in NUMERIC.items():
        if np.size(header.get(tag)) != n_values or header.get(tag) in (None, ""):
            raise ValueError(
                f"{s.file} has no {tag}: it is truncated or not an axial slice; copy it again or "
                "remove it"
            )
    directions = s.numbers("ImageOrientationPatient").reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=0.01):
        raise ValueError(
            f"{s.file} is damaged: its ImageOrientationPatient {directions.ravel().tolist()} is "
            f"not a pair of perpendicular unit vectors; {AGAIN}"
        )
    if not (s.numbers("PixelSpacing") > 0).all():
        raise ValueError(f"{s.file} has a PixelSpacing that is not positive; {AGAIN}")
    kind = header.get("RescaleType") or ""
    if kind not in HU_RESCALE_TYPES:
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
    """True for a transfer syntax that encodes pixels, such as RLE or JPEG."""
    deflated = uid.DeflatedExplicitVRLittleEndian
    return syntax is not None and syntax.is_compressed and syntax != deflated


def decoder_remedy(syntax: uid.UID) -> str:
    """Remedy for files of a compressed transfer syntax without decoder."""
    raw = "decompress each file with: gdcmconv --raw FILE NEW_FILE"
    try:
        needed = " ".join(get_decoder(syntax).missing_dependencies)
    except NotImplementedError:
        return raw
    packages = re.findall(r"(pylibjpeg[\w-]*)>=", needed)
    return f"type: pip install {' '.join(packages)}, or {raw}"


def check_same_size(s: DicomSlice, first: DicomSlice) -> None:
    """Raise ValueError if two slices differ in size, pixel spacing or orientation."""
    for tag in SHARED:
        if not np.allclose(s.numbers(tag), first.numbers(tag), rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"{s.file} has {tag} {s.header[tag].value} but {first.file.name} has "
                f"{first.header[tag].value}; keep the slices of one volume in the folder"
            )
