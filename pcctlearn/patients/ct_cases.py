"""CT volumes on disk as cases to scan: maps of each patient on any grid."""

import hashlib
import warnings
from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.files.cache import Arrays, kept_on_disk
from pcctlearn.files.names import UNFIT
from pcctlearn.patients.cases import Cases
from pcctlearn.patients.ct_volume import CtVolume
from pcctlearn.patients.nifti import without_suffix
from pcctlearn.patients.patient_frame import PlacedCase
from pcctlearn.phantoms.placement import BodyTooWideError, place_body
from pcctlearn.tomography.grids import VolumeGrid

CACHE_VERSION = 4  # increase when the maps of the same files change
_NOT_OF_MAPS = {"path", "limit", "cache", "series", "_cases"}  # settings


class Case(NamedTuple):
    """Where one case is: its file or folder, and which series of that folder."""

    path: Path
    series: str | None = None


class CtCases(Cases):
    """CT volumes at a path, and their maps; a case is read when it is asked for.

    A new layout on disk defines ``wanted``, ``sources`` and ``read``.

    Args:
        path: what ``wanted`` says; ``None`` only until the first case is asked for.
        threshold_HU: above it lies bone, made of water and calcium.
        fit: shrink a body that is wider than the field of view instead of refusing it.
        limit: use the first cases only; ``None`` for all.
        straighten: resample a tilted volume onto the patient's axes instead of refusing it.
        cache: keep the maps in $PCCTLEARN_CACHE, so that each is made once for each grid.

    ``placed`` also returns the position of the scanner in the patient.
    """

    wanted: str  # what ``path`` names, for messages

    def __init__(
        self,
        path: str | None = None,
        threshold_HU: float = 200.0,
        fit: bool = False,
        limit: int | None = None,
        straighten: bool = False,
        cache: bool = True,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"datasets.limit must be 1 or more, or null for all, got {limit}")
        self.path, self.threshold_HU, self.limit = path, threshold_HU, limit
        self.fit, self.straighten, self.cache = fit, straighten, cache
        self._cases: list[Case] | None = None
        if path is not None:  # bad paths fail here
            if not Path(path).exists():
                raise FileNotFoundError(f"datasets.path {path} does not exist; give {self.wanted}")
            self._cases = self.sources(Path(path))[:limit]
            self._check_names()

    @abstractmethod
    def sources(self, path: Path) -> list[Case]:
        """The cases at an existing path, in order; FileNotFoundError where there are none."""

    @abstractmethod
    def read(self, case: Case) -> CtVolume:
        """One case in HU and house axes, straightened if ``straighten`` is set."""

    @property
    def cases(self) -> list[Case]:
        """Where each case is."""
        if self._cases is None:
            raise ValueError(f"datasets.path needs a value: {self.wanted}")
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
        return self.read(self._case(index))

    def maps(self, index: int, grid: VolumeGrid) -> Float[Tensor, "material z y x"]:
        """Water and calcium in g/cm³, float32: the maps of ``placed``."""
        return self.placed(index, grid).maps

    def placed(self, index: int, grid: VolumeGrid) -> PlacedCase:
        """Water and calcium maps of the body without its table, centered on the axis.

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
        self.require_index(index)
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
        case = self._case(index)
        source = case.path
        files = sorted(source.rglob("*")) if source.is_dir() else [source]
        stats = [(str(file.resolve()), file.stat()) for file in files if file.is_file()]
        versions = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        settings = {name: value for name, value in vars(self).items() if name not in _NOT_OF_MAPS}
        depends = (CACHE_VERSION, type(self).__name__, settings, case.series, grid, versions)
        return f"ct-{hashlib.sha256(repr(depends).encode()).hexdigest()[:32]}"
