"""Compare the sizes of all arrays of a scan file with one another and with its geometry."""

from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from pcctlearn.scans.schema import ARRAYS, MAPS_GRID, beam_of
from pcctlearn.tomography.geometry.cone import ConeBeam

_ONE_ROW = "geometry (beam)"  # a fan or a parallel beam
_COUNTED = {"geometry": ("view", "row", "column"), "geometry/volume": ("z", "y", "x")}


def size_faults(
    items: Mapping[str, Any], arrays: Mapping[str, h5py.Dataset]
) -> Iterator[tuple[str, str]]:
    """(name, sentence) for each array or group that disagrees with one before it.

    Args:
        items: groups and datasets of the file.
        arrays: the datasets that have numbers and axes.
    """
    transposed = dict(_transposed(items, arrays))
    yield from transposed.items()
    others = {name: item for name, item in arrays.items() if name not in transposed}
    first: dict[str, tuple[str, int]] = {}  # {axis: the array that set its size, size}
    for name, sizes in [*_array_sizes(others), *_geometry_sizes(items)]:
        for axis, size in sizes.items():
            other, expected = first.setdefault(axis, (name, size))
            if size == expected:
                continue
            if _ONE_ROW in (name, other):
                array, n_rows = (other, expected) if name == _ONE_ROW else (name, size)
                found = f"{array} has {n_rows} rows, and a fan or parallel beam has one"
                yield name, f"{found}: store each row as a scan, or set beam to 'cone'"
                continue
            found = f"{size} along its axis {axis}, {other} {expected}"
            remedy = "store both of the same scan, axes in the order of the schema"
            if axis == "bin" and "thresholds" in name:
                found = f"{size + 1} edges for the {expected} bins of {other}"
                remedy = "list one edge more than there are bins, the last one the upper limit"
            if axis in ("z", "y", "x"):
                remedy = "maps on a grid of their own need the attributes voxel_cm and center_cm"
            yield name, f"{name} has {found}: {remedy}"


def _transposed(
    items: Mapping[str, Any], arrays: Mapping[str, h5py.Dataset]
) -> Iterator[tuple[str, str]]:
    """Arrays that have the expected sizes in another order."""
    known = {axis: n for _, sizes in _geometry_sizes(items) for axis, n in sizes.items()}
    if "thresholds_keV" in arrays:
        known["bin"] = arrays["thresholds_keV"].shape[-1] - 1
    for name, item in arrays.items():
        axes = ARRAYS[name].axes_of(item.ndim)
        expected = tuple(known.get(axis, 0) for axis in axes)
        if item.shape != expected and sorted(item.shape) == sorted(expected):
            yield (
                name,
                f"{name} has shape {item.shape}, expected {expected} for its axes "
                f"{' '.join(axes)}: transpose it",
            )


def _array_sizes(arrays: Mapping[str, h5py.Dataset]) -> Iterator[tuple[str, dict[str, int]]]:
    for name, item in arrays.items():
        sizes = dict(zip(ARRAYS[name].axes_of(item.ndim), item.shape, strict=True))
        if "edge" in sizes:
            sizes["bin"] = sizes.pop("edge") - 1
        if "energy" in sizes:  # spectrum and response may have different energies
            sizes[name.partition("/")[0] + " energy"] = sizes.pop("energy")
        if "z" in sizes and MAPS_GRID & set(item.attrs):
            sizes = {"material": sizes["material"]}
        yield name, sizes


def _geometry_sizes(items: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    geometry = items["geometry"]
    if isinstance(geometry, h5py.Group) and beam_of(geometry.attrs) is not ConeBeam:
        yield _ONE_ROW, {"row": 1}
    for group, axes in _COUNTED.items():
        for axis in axes if isinstance(items[group], h5py.Group) else ():
            name = f"n_{axis}" if len(axis) == 1 else f"n_{axis}s"
            value = np.asarray(items[group].attrs.get(name, "absent"))
            if value.size == 1 and value.dtype.kind in "iuf":
                yield f"{group} ({name})", {axis: value.item()}
