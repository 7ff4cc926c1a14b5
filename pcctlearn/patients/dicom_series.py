"""Read a CT volume from a folder of DICOM slices, ordered by ImagePositionPatient."""

from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import apply_rescale

from pcctlearn.patients.ct_volume import CtVolume, air_for_padding, ct_volume, require_straight
from pcctlearn.patients.dicom_files import ct_slices
from pcctlearn.patients.dicom_slice import (
    AGAIN,
    DicomSlice,
    decoder_remedy,
    is_encoded,
    require_inflatable,
)
from pcctlearn.reading.damaged import readable
from pcctlearn.reading.sizes import require_size

PADDING_HU = -2048.0  # becomes air, but does not count as air in the check for HU
SAME_POSITION_MM = 0.01
SPACING_TOLERANCE = 0.02  # of the median spacing, because positions are rounded
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def read_dicom_series(
    folder: str | Path,
    series: str | None = None,
    resample: bool = False,
    straighten: bool = False,
) -> CtVolume:
    """The CT series whose files are in ``folder``, in HU.

    Slices are ordered and their spacing is measured by ImagePositionPatient; each slice has its
    own slope and intercept. Scouts and files that are not DICOM images are skipped.

    Args:
        folder: contains the files, under any names.
        series: SeriesInstanceUID; needed if the folder holds several series.
        resample: interpolate unevenly spaced slices to even spacing instead of rejecting them.
        straighten: resample a tilted stack to the patient's axes instead of rejecting it.

    Raises:
        FileNotFoundError: the folder does not exist or holds no DICOM slices.
        ValueError: the files are not one CT volume in straight axes; the message names the file and
            the remedy.
    """
    folder = Path(folder)
    slices = ct_slices(folder, series)
    slices.sort(key=lambda s: s.height_mm)
    if len(slices) == 1:
        raise ValueError(f"{folder} holds one slice; give a series of two or more")
    gaps_mm = np.diff([s.height_mm for s in slices])
    _check_duplicates(slices, gaps_mm)
    affine = _affine(folder, slices)
    if not straighten:
        require_straight(folder, affine)  # first, because a tilt distorts the spacing
    median_mm = np.median(gaps_mm)
    even = bool((np.abs(gaps_mm - median_mm) <= SPACING_TOLERANCE * median_mm).all())
    if not even and not resample:
        raise ValueError(_uneven(folder, slices, gaps_mm))

    n_bytes = 8 * len(slices) * slices[0].header.Rows * slices[0].header.Columns
    require_size(folder, n_bytes, "give a series of fewer voxels, or use more memory")
    hounsfield = air_for_padding(folder, np.stack([_hounsfield(s) for s in slices]))
    evenly_spaced = None if even else partial(_evenly_spaced, gaps_mm=gaps_mm)
    return ct_volume(folder, hounsfield, affine, straighten, evenly_spaced)


def _affine(folder: Path, slices: list[DicomSlice]) -> np.ndarray:
    """The matrix from (slice, row, column) to (R, A, S) in mm, for slices along one line."""
    first, last = slices[0], slices[-1]
    columns, rows = first.numbers("ImageOrientationPatient").reshape(2, 3)
    if np.abs(first.normal).argmax() != 2:
        raise ValueError(
            f"{folder} is not axial: the normal of its slices is "
            f"{first.normal.round(2).tolist()}; give the axial series"
        )
    row_mm, column_mm = first.numbers("PixelSpacing")
    positions = np.stack([s.numbers("ImagePositionPatient") for s in slices])
    line = positions[-1] - positions[0]
    along = np.array([s.height_mm - first.height_mm for s in slices])
    share = along / along[-1]
    aside_mm = np.linalg.norm(positions - positions[0] - share[:, None] * line, axis=1)
    if aside_mm.max() > min(row_mm, column_mm):
        raise ValueError(
            f"{slices[aside_mm.argmax()].file} is shifted by {aside_mm.max():.1f} mm from the "
            f"line between {first.file.name} and {last.file.name}; give slices of one scan, or "
            "resample them to straight axes first"
        )
    affine = np.eye(4)
    affine[:3, :3] = np.stack(
        [line / (len(slices) - 1), rows * row_mm, columns * column_mm], axis=1
    )
    affine[:3, 3] = positions[0]
    affine[:3] *= LPS_TO_RAS[:, None]
    return affine


def _check_duplicates(slices: list[DicomSlice], gaps_mm: np.ndarray) -> None:
    closest = int(gaps_mm.argmin())
    if gaps_mm[closest] < SAME_POSITION_MM:
        raise ValueError(
            f"{slices[closest].file} and {slices[closest + 1].file.name} have the same position "
            f"({slices[closest].height_mm:.2f} mm): a duplicate or another phase; keep one of them"
        )


def _uneven(folder: Path, slices: list[DicomSlice], gaps_mm: np.ndarray) -> str:
    median_mm = float(np.median(gaps_mm))
    worst = int(np.abs(gaps_mm - median_mm).argmax())
    n_missing = round(gaps_mm[worst] / median_mm) - 1
    missing = f" ({n_missing} may be missing)" if n_missing > 0 else ""
    return (
        f"{folder} has unevenly spaced slices: {gaps_mm[worst]:.2f} mm between "
        f"{slices[worst].file.name} and {slices[worst + 1].file.name}{missing}, median "
        f"{median_mm:.2f} mm; copy the series again, or interpolate with datasets.resample=true"
    )


def _evenly_spaced(
    values: np.ndarray, affine: np.ndarray, gaps_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate linearly between the two nearest slices, at about the median spacing."""
    heights_mm = np.concatenate([[0.0], gaps_mm.cumsum()])
    n_slices = round(heights_mm[-1] / np.median(gaps_mm)) + 1
    positions = np.interp(
        np.linspace(0, heights_mm[-1], n_slices), heights_mm, np.arange(len(heights_mm))
    )
    below = np.minimum(positions.astype(int), len(values) - 2)
    share = (positions - below).astype(np.float32)[:, None, None]
    even = affine.copy()
    even[:3, 0] *= (len(values) - 1) / (n_slices - 1)
    return (1 - share) * values[below] + share * values[below + 1], even


def _hounsfield(s: DicomSlice) -> np.ndarray:
    syntax = s.header.file_meta.get("TransferSyntaxUID")
    remedy = f"{AGAIN}, or {decoder_remedy(syntax)}" if is_encoded(syntax) else AGAIN
    require_inflatable(s.file)
    with readable(s.file, "a whole DICOM slice", remedy):
        dataset = pydicom.dcmread(s.file)
        stored = dataset.pixel_array
        if stored.shape != (s.header.Rows, s.header.Columns):
            raise ValueError(f"its pixels have shape {stored.shape}")
        hounsfield = apply_rescale(stored, dataset).astype(np.float32)
        hounsfield[_is_padding(stored, dataset)] = PADDING_HU
    return hounsfield


def _is_padding(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """True for stored values within the padding range of the file, ends included.

    PixelPaddingValue and PixelPaddingRangeLimit are its ends, in either order. Some writers give
    the unsigned form of a signed number, or the reverse, so both are wrapped into the range of the
    stored type.
    """
    kind = np.iinfo(stored.dtype)
    tags = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    found = [dataset.get(tag) for tag in tags]
    ends = [(int(end) - kind.min) % 2**kind.bits + kind.min for end in found if end is not None]
    if not ends:
        return np.zeros(stored.shape, dtype=bool)
    return (stored >= min(ends)) & (stored <= max(ends))
