"""The schema of a scan file (docs/scan_file.md): its arrays, and the reading of attributes."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import h5py
import numpy as np

from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import VolumeGrid

SCHEMA, SCHEMA_VERSION = "pcctlearn scan", 2
READABLE_VERSIONS = (1, SCHEMA_VERSION)  # version 1: a cone beam, and counts in bins
BEAMS: dict[str, Any] = {"cone": ConeBeam, "fan": FanBeam, "parallel": ParallelBeam}
_BLOCK_BYTES = 2**26
_IN_FLOAT32 = ("infinite", "beyond the range of float32 (3.4e38)")


class StoredArray(NamedTuple):
    """One dataset of the schema.

    axes: names of the axes, alternatives after ``|``. dtype: type in memory. refused: kinds of
    values that it must not hold (validation/values.py). increases: its values increase along the
    last axis. any_magnitude: its greatest value may be far from those usual for its unit.
    """

    axes: str
    unit: str
    dtype: str = "float64"
    refused: tuple[str, ...] = (*_IN_FLOAT32, "NaN", "negative")
    required: bool = False
    increases: bool = False
    any_magnitude: bool = False

    def axes_of(self, n_axes: int) -> tuple[str, ...]:
        """Names of the axes if there are ``n_axes``; empty if there cannot be as many."""
        choices = (tuple(choice.split()) for choice in self.axes.split("|"))
        return next((axes for axes in choices if len(axes) == n_axes), ())


_COUNTS = StoredArray("bin view row column", "photons", "float32")
_MEASURED = (*_IN_FLOAT32, "negative")  # NaN is a dead pixel
_EDGES = StoredArray("edge | row column edge", "keV", increases=True)
_SIGNED = (*_IN_FLOAT32, "NaN")  # fat is water with a slightly negative density of calcium

ARRAYS = {
    "counts": _COUNTS._replace(refused=_MEASURED, required=True),
    "air": StoredArray(
        "bin row column",
        "photons",
        "float32",
        (*_MEASURED, "below the range of float32 (1.2e-38)"),
        required=True,
    ),
    "thresholds_keV": _EDGES._replace(required=True),
    "exposure": StoredArray("view", "1"),
    "geometry/measured_angles_rad": StoredArray("view", "rad", refused=_SIGNED),
    "primary": _COUNTS,
    "scatter": _COUNTS,
    "scatter_standard_error": _COUNTS,
    "line_integrals": StoredArray("material view row column", "g/cm2", "float32", _SIGNED),
    "maps": StoredArray("material z y x", "g/cm3", "float32", _SIGNED),
    "true_thresholds_keV": _EDGES._replace(axes="row column edge"),
    "skew_cm": StoredArray("filter row column", "cm", refused=_SIGNED),
    "scanner_to_patient": StoredArray("patient scanner", "cm", refused=_SIGNED),
    "spectrum/energies_keV": StoredArray("energy", "keV", increases=True),
    "spectrum/fluence": StoredArray("energy", "photons"),
    "response/energies_keV": StoredArray("energy", "keV"),
    "response/deposited_keV": StoredArray("deposited", "keV", refused=_SIGNED),
    "response/response_per_keV": StoredArray("deposited energy", "1/keV"),
}
MEASURED = ("counts", "air")
MATERIALS = {  # arrays with an attribute materials: the field of ScanRecord that holds it
    "line_integrals": "materials",
    "maps": "materials",
    "skew_cm": "filter_materials",
}
MAPS_GRID = {"voxel_cm", "center_cm"}  # attributes of maps that have their own grid
GROUPS = ("geometry", "geometry/volume", "spectrum", "response")


def texts(attributes: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The strings of an attribute in any HDF5 encoding; empty if it is absent."""
    values = np.ravel(np.asarray(attributes.get(name, ())))
    return tuple(v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values)


def numbers(attributes: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The attributes that are parameters of a dataclass, as Python numbers."""
    names = [field.name for field in fields(kind) if field.name in attributes]
    return {name: _number(name, np.asarray(attributes[name], np.float64)) for name in names}


def _number(name: str, values: np.ndarray) -> int | float | tuple[float, ...]:
    if values.size != 1:
        return tuple(values.tolist())
    number = float(values.item())
    return int(number) if name.startswith("n_") and number.is_integer() else number


def counted(attributes: Mapping[str, Any]) -> str:
    """What ``counts`` and ``air`` hold: counts in "bins" or "above" thresholds."""
    return " ".join(texts(attributes, "counted")) or "bins"


def beam_of(attributes: Mapping[str, Any]) -> Any:
    """The class of the geometry with these attributes; a cone beam if they do not name it."""
    return BEAMS.get(" ".join(texts(attributes, "beam")), ConeBeam)


def geometry_of(group: h5py.Group) -> Geometry:
    """The geometry; ValueError if its parameters are impossible."""
    kind, dataset = beam_of(group.attrs), group.get("measured_angles_rad")
    parameters = numbers(group.attrs, kind)
    if dataset is not None:
        parameters["view_angles_rad"] = dataset[()].astype(float).tolist()
    return kind(**parameters)


def grid_of(group: h5py.Group, geometry: Geometry) -> VolumeGrid:
    """The grid in ``geometry/volume``, or the default grid of the geometry.

    Raises:
        ValueError: the geometry cannot project it.
    """
    if "volume" not in group:
        return geometry.default_grid()
    grid = VolumeGrid(**numbers(group["volume"].attrs, VolumeGrid))
    geometry.require_grid(grid)
    return grid


def maps_grid_of(maps: h5py.Dataset) -> VolumeGrid | None:
    """The grid in the attributes of the maps; ``None`` if they lie on that of the scan."""
    if not MAPS_GRID & set(maps.attrs):
        return None
    n_z, n_y, n_x = maps.shape[1:]
    return VolumeGrid(n_z, n_y, n_x, **numbers(maps.attrs, VolumeGrid))


def blocks(dataset: h5py.Dataset, n_bytes: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of views (or slices): index of the first along axis 1, and values.

    A block has at most n_bytes, by default 64 MiB, but one view at least.
    """
    if dataset.ndim < 4:
        yield 0, dataset[()]
        return
    n_bytes = n_bytes or _BLOCK_BYTES
    length = max(1, n_bytes * dataset.shape[1] // (dataset.size * dataset.dtype.itemsize))
    for start in range(0, dataset.shape[1], length):
        yield start, dataset[:, start : start + length]
