"""CT volumes on disk as cases to scan: density maps of each patient on any grid."""

import hashlib
import warnings
from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

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
from pcctlearn.validation import require_finite

CACHE_VERSION = 4  # increase when the maps of the same files change
_NOT_IN_KEY = {"path", "limit", "cache", "series", "_cases"}  # do not change the maps


class Case(NamedTuple):
    """File or folder of one case, and its series where the folder holds several."""

    path: Path
    series: str | None = None


@dataclass(eq=False)
class CtCases(Cases):
    """CT volumes at a path, and their density maps on any grid; a volume is read when needed.

    A new layout on disk lists its cases in ``sources``, reads one of them in ``read``, and
    describes its path in ``expected_path``.

    Args:
        path: file or folder, described by ``expected_path``.
        threshold_HU: voxels above it are bone, a mixture of water and calcium.
        fit: shrink a body that is wider than the field of view instead of rejecting it.
        limit: use only the first cases; ``None`` for all.
        straighten: resample a tilted volume to the patient's axes instead of rejecting it.
        cache: keep the maps of each case and grid in $PCCTLEARN_CACHE.
        slice_cm: center of the grid along z, in cm above the middle of the body; ``None``: 0. For
            a fan or parallel beam this is the slice that is scanned.
    """

    expected_path: ClassVar[str]  # description of ``path`` for messages

    path: str | None = None
    threshold_HU: float = 200.0
    fit: bool = False
    limit: int | None = None
    straighten: bool = False
    cache: bool = True
    slice_cm: float | None = None
    _cases: list[Case] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"datasets.limit must be 1 or more, or null for all, got {self.limit}")
        if self.slice_cm is not None:
            require_finite(slice_cm=self.slice_cm)
        if self.path is not None:  # a wrong path raises before any work is done
            if not Path(self.path).exists():
                raise FileNotFoundError(
                    f"datasets.path {self.path} does not exist; give {self.expected_path}"
                )
            self._cases = self.sources(Path(self.path))[: self.limit]
            self._check_names()

    @abstractmethod
    def sources(self, path: Path) -> list[Case]:
        """The cases at an existing path, in order; FileNotFoundError if there are none."""

    @abstractmethod
    def read(self, case: Case) -> CtVolume:
        """Read one case in HU, straightened if ``straighten`` is set."""

    @property
    def cases(self) -> list[Case]:
        """All cases, in order."""
        if self._cases is None:
            raise ValueError(f"datasets.path needs a value: {self.expected_path}")
        return self._cases

    @property
    def names(self) -> list[str]:
        """Name of each case for captions and files: its path below ``path``.

        Characters that some systems do not allow in file names are replaced by _.
        """
        root = Path(self.path or "")
        n_series = Counter(case.path for case in self.cases)
        names = []
        for path, series in self.cases:
            name = root.resolve().name if path == root else path.relative_to(root).as_posix()
            suffix = f"/{series}" if n_series[path] > 1 else ""
            names.append(UNFIT.sub("_", without_suffix(name) + suffix))
        return names

    def __len__(self) -> int:
        return len(self.cases)

    def volume(self, index: int) -> CtVolume:
        """Read one case in HU."""
        self.require_index(index)
        return self.read(self.cases[index])

    def maps(self, index: int, grid: VolumeGrid) -> Float[Tensor, "material z y x"]:
        """Water and calcium in g/cm³, float32."""
        return self.placed(index, grid).maps

    def placed(self, index: int, grid: VolumeGrid) -> PlacedCase:
        """Water and calcium maps of the body, centered on the axis, and the scanner's position.

        The table is removed, and what lies beyond the grid is cut off. A warning names pieces of
        the CT that are left out and a body that ``fit`` shrinks.

        Raises:
            BodyTooWideError: the body is wider than the grid and ``fit`` is not set.
            ValueError: ``slice_cm`` lies outside the body.
        """
        self.require_index(index)
        build = partial(self._place, index, grid)
        shapes = {"maps": (2, *grid.shape), "scanner_to_patient": (4, 4)}

        def is_sound(arrays: Arrays) -> bool:
            return {name: array.shape for name, array in arrays.items()} == shapes

        arrays = kept_on_disk(self._key(index, grid), build, is_sound) if self.cache else build()
        return PlacedCase(torch.from_numpy(arrays["maps"]), arrays["scanner_to_patient"])

    def _check_names(self) -> None:
        """Raise ValueError if two cases would write the same scan file on any file system."""
        taken: dict[str, Path] = {}
        for name, (path, _) in zip(self.names, self.cases, strict=True):
            other = taken.setdefault(name.replace("/", "_").casefold(), path)
            if other != path:
                raise ValueError(
                    f"{other} and {path} have the same name, {name.replace('/', '_')}: rename or "
                    "remove one of them"
                )

    def _place(self, index: int, grid: VolumeGrid) -> Arrays:
        volume, source = self.volume(index), self.cases[index].path
        try:
            body = place_body(
                volume.hounsfield,
                volume.voxel_cm,
                grid,
                self.threshold_HU,
                self.fit,
                None if volume.densities is None else volume.densities(self.threshold_HU),
                self.slice_cm or 0.0,
            )
        except BodyTooWideError as error:
            raise BodyTooWideError(f"{source}: {error}", error.radius_cm) from error
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        if body.left_out:
            shares = " and ".join(f"{100 * share:.2g} %" for share in body.left_out)
            warnings.warn(
                f"{source}: separate pieces with {shares} of the patient's mass are left out as "
                "table or equipment",
                stacklevel=2,
            )
        if body.scale < 1:
            warnings.warn(
                f"{source}: the patient is shrunk to {100 * body.scale:.3g} % of its size "
                "(datasets.fit=true)",
                stacklevel=2,
            )
        frame = volume.index_to_patient @ body.scanner_to_index
        return {"maps": body.maps.numpy(), "scanner_to_patient": frame}

    def _key(self, index: int, grid: VolumeGrid) -> str:
        """Hash of the files and of everything else that determines the maps."""
        case = self.cases[index]
        source = case.path
        files = sorted(source.rglob("*")) if source.is_dir() else [source]
        stats = [(str(file.resolve()), file.stat()) for file in files if file.is_file()]
        versions = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        settings = {
            name: value
            for name, value in vars(self).items()
            if name not in _NOT_IN_KEY and value is not None
        }
        depends = (CACHE_VERSION, type(self).__name__, settings, case.series, grid, versions)
        return f"ct-{hashlib.sha256(repr(depends).encode()).hexdigest()[:32]}"
