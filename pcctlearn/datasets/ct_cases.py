"""Patients of the user's own as phantoms: any CT on disk becomes maps on any grid."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.datasets.ct_volume import CtVolume
from pcctlearn.datasets.dicom_files import dicom_folders, listed_series, series_in, slice_folders
from pcctlearn.datasets.dicom_series import read_dicom_series
from pcctlearn.datasets.kits import kits_cases, read_case
from pcctlearn.datasets.nifti import SUFFIXES, read_nifti, without_suffix
from pcctlearn.datasets.patient_frame import PlacedCase
from pcctlearn.datasets.sinoct import read_series, sinoct_series
from pcctlearn.files import UNFIT, is_hidden
from pcctlearn.phantoms.placement import BodyTooWideError, place_body
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.matrix_cache import Arrays, kept_on_disk

CACHE_VERSION = 3  # increase when the maps of the same files change


class Case(NamedTuple):
    """Where one case is: its file or folder, and which series of that folder."""

    path: Path
    series: str | None = None


@dataclass(frozen=True)
class Layout:
    """How cases lie on disk: what to point at, where they are, and how one is read.

    ``read`` takes ``straighten``, and ``resample`` where slices may be unevenly spaced.
    """

    wanted: str
    sources: Callable[[Path], list[Path]]
    read: Callable[..., CtVolume]
    slices: bool = False


def nifti_files(path: Path) -> list[Path]:
    """The file itself, or the .nii and .nii.gz files of a folder, in order."""
    if path.is_file():
        return [path]
    visible = (file for file in path.iterdir() if not is_hidden(file, path))
    files = sorted(file for file in visible if file.name.lower().endswith(SUFFIXES))
    if not files:
        raise FileNotFoundError(f"no .nii or .nii.gz files in {path}; give a folder of CT in HU")
    return files


def series_folders(path: Path) -> list[Path]:
    """The folder itself where it holds slices, or the folders below that do."""
    folders = _folders_with_slices(path)
    return folders[:1] if folders[0] == path else folders


def chosen_series(path: Path, wanted: str) -> list[Case]:
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


LAYOUTS = {
    "nifti": Layout("a .nii or .nii.gz file in HU, or a folder of them", nifti_files, read_nifti),
    "dicom": Layout(
        "the folder of a DICOM series, or a folder of such folders",
        series_folders,
        read_dicom_series,
        slices=True,
    ),
    "kits": Layout("a KiTS case, or the root of KiTS21 or KiTS23", kits_cases, read_case),
    "sinoct": Layout(
        "the folder with batch_*/series_*, unpacked from SinoCT",
        sinoct_series,
        read_series,
        slices=True,
    ),
}


class CtCases:
    """CT volumes found at a path, and their maps; a case is read when it is asked for.

    Args:
        path: what the layout says; ``None`` only until the first case is asked for.
        layout: nifti, dicom, kits or sinoct.
        threshold_HU: above it lies bone, made of water and calcium.
        fit: shrink a body that is wider than the field of view instead of refusing it.
        limit: use the first cases only; ``None`` for all.
        resample: interpolate unevenly spaced DICOM slices instead of refusing them.
        straighten: resample a tilted volume onto the patient's axes instead of refusing it.
        series: SeriesInstanceUID of the DICOM series to read where a folder holds several, or
            "all" for each of them as a case; ``None`` where every folder holds one.
        cache: keep the maps in $PCCTLEARN_CACHE, so that each is made once for each grid.

    ``placed`` also returns where the patient lies.
    """

    def __init__(
        self,
        path: str | None = None,
        layout: Literal["nifti", "dicom", "kits", "sinoct"] = "nifti",
        threshold_HU: float = 200.0,
        fit: bool = False,
        limit: int | None = None,
        resample: bool = False,
        straighten: bool = False,
        series: str | None = None,
        cache: bool = True,
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"datasets.layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        if limit is not None and limit < 1:
            raise ValueError(f"datasets.limit must be 1 or more, or null for all, got {limit}")
        if series is not None and layout != "dicom":
            raise ValueError(
                f"datasets.series is a setting of datasets=dicom, got {series} for {layout}: leave "
                "it out"
            )
        self.path, self.layout, self.threshold_HU = path, layout, threshold_HU
        self.fit, self.limit, self.cache = fit, limit, cache
        self.resample, self.straighten = resample, straighten
        self.series = series
        self._cases = None if path is None else self._find(Path(path))  # bad paths fail here
        if path is not None:
            self._check_names()

    @property
    def cases(self) -> list[Case]:
        """Where each case is."""
        if self._cases is None:
            raise ValueError(f"datasets.path needs a value: {LAYOUTS[self.layout].wanted}")
        return self._cases

    @property
    def names(self) -> list[str]:
        """Name of each case for captions and files: its path below ``path``.

        Characters that some systems do not allow in file names are replaced by _.
        """
        root = Path(self.path or "")
        folders = [case.path for case in self.cases]
        names = []
        for path, series in self.cases:
            place = root.resolve().name if path == root else path.relative_to(root).as_posix()
            which = f"/{series}" if folders.count(path) > 1 else ""
            names.append(UNFIT.sub("_", without_suffix(place) + which))
        return names

    def __len__(self) -> int:
        return len(self.cases)

    def volume(self, index: int) -> CtVolume:
        """A case in HU and house axes."""
        layout = LAYOUTS[self.layout]
        case = self._case(index)
        options: dict[str, Any] = {"resample": self.resample} if layout.slices else {}
        if case.series is not None:
            options["series"] = case.series
        return layout.read(case.path, straighten=self.straighten, **options)

    def maps(self, index: int, grid: VolumeGrid) -> Float[Tensor, "material z y x"]:
        """Water and calcium in g/cm³, float32: the maps of ``placed``."""
        return self.placed(index, grid).maps

    def placed(self, index: int, grid: VolumeGrid) -> PlacedCase:
        """Water and calcium maps of the body without its table, centred on the axis.

        Outside it is air. Where it is longer than the grid it is cut. Pieces of the CT that are
        left out, and a body that ``fit`` shrinks, are named in a warning when the maps are made.
        Raises BodyTooWideError for a body wider than the grid, unless ``fit`` shrinks it.
        """
        build = partial(self._place, index, grid)
        shapes = {"maps": (2, *grid.shape), "scanner_to_patient": (4, 4)}

        def is_sound(arrays: Arrays) -> bool:
            return {name: array.shape for name, array in arrays.items()} == shapes

        arrays = kept_on_disk(self._key(index, grid), build, is_sound) if self.cache else build()
        return PlacedCase(torch.from_numpy(arrays["maps"]), arrays["scanner_to_patient"])

    def _find(self, path: Path) -> list[Case]:
        layout = LAYOUTS[self.layout]
        if not path.exists():
            raise FileNotFoundError(f"datasets.path {path} does not exist; give {layout.wanted}")
        if self.series is not None:
            return chosen_series(path, self.series)[: self.limit]
        return [Case(source) for source in layout.sources(path)][: self.limit]

    def _check_names(self) -> None:
        """Raise ValueError if two cases would have the same scan file, ignoring case."""
        taken: dict[str, Path] = {}
        for name, (path, _) in zip(self.names, self.cases, strict=True):
            other = taken.setdefault(name.replace("/", "_").casefold(), path)
            if other != path:
                raise ValueError(
                    f"{other} and {path} are two cases with one name, {name.replace('/', '_')}: "
                    "rename or remove one of them"
                )

    def _case(self, index: int) -> Case:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has cases 0 to {len(self) - 1}, got index {index}")
        return self.cases[index]

    def _place(self, index: int, grid: VolumeGrid) -> Arrays:
        volume, source = self.volume(index), self._case(index).path
        try:
            body = place_body(
                volume.hounsfield,
                volume.voxel_cm,
                grid,
                self.threshold_HU,
                self.fit,
                None if volume.densities is None else volume.densities(self.threshold_HU),
            )
        except BodyTooWideError as error:
            raise BodyTooWideError(f"{source}: {error}", error.radius_cm) from error
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        if body.left_out:
            shares = " and ".join(f"{100 * share:.2g} %" for share in body.left_out)
            warnings.warn(
                f"{source}: {len(body.left_out)} separate piece(s) beside the patient are left out "
                f"as table or equipment, with {shares} of the patient's mass",
                stacklevel=2,
            )
        if body.scale < 1:
            warnings.warn(
                f"{source}: the patient is shrunk to {100 * body.scale:.3g} % of its size, as "
                "datasets.fit=true allows",
                stacklevel=2,
            )
        frame = volume.index_to_patient @ body.scanner_to_index
        return {"maps": body.maps.numpy(), "scanner_to_patient": frame}

    def _key(self, index: int, grid: VolumeGrid) -> str:
        """Changes with the files and with everything that the maps depend on."""
        source, series = self._case(index)
        files = sorted(source.rglob("*")) if source.is_dir() else [source]
        stats = [(str(file.resolve()), file.stat()) for file in files if file.is_file()]
        versions = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        options = (self.fit, self.resample, self.straighten)
        settings = (self.layout, self.threshold_HU, series, *options)
        depends = (CACHE_VERSION, settings, grid, versions)
        return f"ct-{hashlib.sha256(repr(depends).encode()).hexdigest()[:32]}"
