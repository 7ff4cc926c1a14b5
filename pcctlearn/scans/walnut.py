"""Projections of the Walnut photon-counting CT data set: counts of two bins, and air.

E. Zhou, W. Li, W. Xu et al., "A cone-beam photon-counting CT dataset for spectral image
reconstruction and deep learning", Scientific Data 12 (2025) 1955. doi:10.1038/s41597-025-06246-4.
Data: Zenodo 15738314.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

N_COLUMNS, N_ROWS = 2063, 505
GAP_ROWS = slice(251, 254)  # between the two halves of the detector
TRUSTED = (5, 4090)  # counts outside this range mark a broken pixel, as in the authors' code


@dataclass(frozen=True, eq=False)
class WalnutScan:
    """One rotation at one couch position: 1440 views of 0.25°, 80 kV.

    Args:
        counts: photons, bin 0 of 15–30 keV and bin 1 above 30 keV.
        air: photons with nothing in the beam.
        usable: false for broken pixels and the gap between the halves of the detector.
    """

    counts: Float[Tensor, "bin view row column"]
    air: Float[Tensor, "bin row column"]
    usable: Bool[Tensor, "row column"]


def read_walnut(
    couch: str | Path,
    calibration: str | Path,
    every: int = 1,
    n_rows: int = N_ROWS,
    n_columns: int = N_COLUMNS,
) -> WalnutScan:
    """Counts of one couch position; bin 0 is Total − High, bin 1 is High.

    ``couch`` holds Total/*.raw and High/*.raw, one file per view in the order of their names.
    ``calibration`` holds air_table_low.raw, air_table_high.raw and optionally
    badchannelIndexAll.data. A .raw file is (row, column) of little-endian uint16; the index table
    is float32, from 1, columns fastest. The formats are taken from the authors' MATLAB code,
    github.com/zezisme/WalnutPCCTReconCodes (functions/ProjDataPrepare.m), and NOT verified on the
    downloaded files. The angles, in Total/AcqPara.mat, are not read.

    Args:
        couch: Walnut_<i>/<couch position>.
        calibration: the folder CalibrationTable.
        every: keep every n-th view; all 1440 take 12 GB.
        n_rows: rows of the detector.
        n_columns: columns of the detector.
    """
    if every < 1:
        raise ValueError(f"every must be 1 or more, got {every}")
    couch, calibration = Path(couch), Path(calibration)
    shape = (n_rows, n_columns)
    files = {name: _views(couch / name) for name in ("Total", "High")}
    n_total, n_high = (len(views) for views in files.values())
    if n_total != n_high:
        raise ValueError(
            f"{couch} has {n_total} views in Total and {n_high} in High; unpack it again"
        )
    views = zip(files["Total"][::every], files["High"][::every], strict=True)
    counts = np.stack(
        [_bins(_frame(total, shape), _frame(high, shape)) for total, high in views], 1
    )
    air = [_frame(calibration / f"air_table_{name}.raw", shape, True) for name in ("low", "high")]
    low, high = TRUSTED
    counted = np.concatenate([counts, counts.sum(0, keepdims=True)])
    usable = np.all((counted > low) & (counted < high), axis=(0, 1), keepdims=True)[0, 0]
    usable[GAP_ROWS] = False
    usable.flat[_broken(calibration / "badchannelIndexAll.data", usable.size)] = False
    return WalnutScan(
        torch.from_numpy(counts), torch.from_numpy(np.stack(air)), torch.from_numpy(usable)
    )


def _views(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.raw"))
    if not files:
        raise FileNotFoundError(f"no .raw views in {folder}; unpack a walnut of Zenodo 15738314")
    return files


def _bins(total: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.stack([total - high, high])


def _frame(file: Path, shape: tuple[int, int], longer: bool = False) -> np.ndarray:
    """One detector image; the first of a table with several, if it may be ``longer``."""
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist: unpack CalibrationTable of Zenodo 15738314"
        )
    n_pixels = shape[0] * shape[1]
    n_stored = file.stat().st_size / 2
    if n_stored < n_pixels or (n_stored > n_pixels and not longer):
        raise ValueError(
            f"{file} holds {n_stored:g} numbers, not {shape[0]} rows of {shape[1]} columns; it is "
            "truncated or of another detector: download it again, or give n_rows and n_columns"
        )
    pixels = np.fromfile(file, "<u2", count=n_pixels)
    return pixels.reshape(shape).astype(np.float32)


def _broken(file: Path, n_pixels: int) -> np.ndarray:
    if not file.is_file():
        return np.zeros(0, dtype=np.int64)
    numbers = np.fromfile(file, "<f4", count=n_pixels + 1)
    named = (numbers >= 1) & (numbers <= n_pixels) & (numbers % 1 == 0)
    if numbers.size > n_pixels or not named.all():
        raise ValueError(
            f"{file} lists pixels that the detector of {n_pixels} pixels lacks: download it again"
        )
    return numbers.astype(np.int64) - 1
