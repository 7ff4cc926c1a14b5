"""Scan files in a folder, as the scans of a study."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scans.file import read_scan
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scans.source import ScanSource
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.grids import VolumeGrid

_SCANNER = ("spectrum", "response")  # read from every file, besides its thresholds


class ScanFiles(ScanSource):
    """Existing scan files of one scanner, sorted by name.

    Args:
        folder: a folder with scan files, or with a folder ``scans`` of them, or one file.
        materials: basis materials of the spectral model.
        limit: use the first files only.

    Raises:
        FileNotFoundError: there are no scan files. ValueError: a file lacks its spectrum or
            response, or differs from the first in geometry, grid, thresholds, spectrum or response.
    """

    def __init__(
        self,
        folder: str | Path,
        materials: Sequence[str] = ("water", "calcium"),
        limit: int | None = None,
    ) -> None:
        self.paths = scan_files(folder)[:limit]
        first, *others = [read_scan(path, _SCANNER) for path in self.paths]
        model = first.spectral_model(materials)
        if model is None:
            raise ValueError(
                f"{self.paths[0]} has no spectrum or no response: add both as docs/scan_file.md "
                "shows"
            )
        for path, other in zip(self.paths[1:], others, strict=True):
            if not same_scanner(first, other):
                raise ValueError(
                    f"{path} is of another scanner than {self.paths[0]}: keep scans of one scanner "
                    "in one folder"
                )
        self._geometry, self._grid, self._model = first.geometry, first.grid, model

    @property
    def geometry(self) -> Geometry:
        """The geometry of all scans."""
        return self._geometry

    @property
    def grid(self) -> VolumeGrid:
        """The grid of all reconstructions."""
        return self._grid

    @property
    def model(self) -> SpectralModel:
        """The spectral model of all scans, with nominal thresholds."""
        return self._model


def scan_files(path: str | Path) -> list[Path]:
    """The scan file at a path, or those in a folder or in its folder ``scans``, sorted by name.

    Raises:
        FileNotFoundError: there are none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no scan at {path}: check its name and folder")
    inner = path / "scans"
    found = (inner if inner.is_dir() else path).glob("*.h5")
    files = sorted(file for file in found if file.is_file() and file.name[0] != ".")
    if not files:
        raise FileNotFoundError(f"no .h5 files in {path} or {inner}: check the name of the folder")
    return files


def same_scanner(one: ScanRecord, other: ScanRecord) -> bool:
    """Whether two files record the same geometry, grid, thresholds, spectrum and response."""
    return (one.geometry, one.grid) == (other.geometry, other.grid) and all(
        torch.equal(a, b) for a, b in zip(_tensors(one), _tensors(other), strict=True)
    )


def _tensors(recorded: ScanRecord) -> list[Tensor]:
    return [recorded.thresholds_keV, *(recorded.spectrum or ()), *(recorded.response or ())]
