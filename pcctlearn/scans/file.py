"""Read, write and check scan files (HDF5, docs/scan_file.md)."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from pcctlearn.files.atomic import written_whole
from pcctlearn.reading.text import shown
from pcctlearn.scans.counted import InBins, without_upper_limit
from pcctlearn.scans.dead_pixels import dead_pixels, listed
from pcctlearn.scans.record import ResponseRecord, ScanRecord, SpectrumRecord
from pcctlearn.scans.schema import (
    ARRAYS,
    BEAMS,
    MATERIALS,
    MEASURED,
    SCHEMA,
    SCHEMA_VERSION,
    blocks,
    counted,
    geometry_of,
    grid_of,
    maps_grid_of,
    texts,
)
from pcctlearn.scans.storage import opened
from pcctlearn.scans.validation.checks import findings_in

_ALWAYS = {"thresholds_keV", "air", "exposure"}  # small; counts need them
READABLE = tuple(  # names that ``only`` accepts
    dict.fromkeys(name.partition("/")[0] for name in ARRAYS if not name.startswith("geometry/"))
)
_GROUPS: dict[str, Any] = {"spectrum": SpectrumRecord, "response": ResponseRecord}
_MEMBERS = {"geometry/measured_angles_rad": "view_angles_rad"}  # fields with another name
_ROOT_ATTRIBUTES = {
    "name": str, "seed": int, "grid_transmission": float, "view_s": float, "config": str,
    "software": str,
}  # fmt: skip


def faults(path: str | Path) -> list[str]:
    """All faults of a file, one sentence each; empty for a valid scan."""
    path = Path(path)
    if path.is_dir():
        return [f"it is a folder: name the files in it, for example {path / '*.h5'}"]
    if not path.is_file():
        return ["there is no such file: check its name and folder"]
    try:
        with opened(path) as file:
            return findings_in(file).faults
    except (OSError, RuntimeError) as error:
        return [_unreadable(error)]


def read_scan(path: str | Path, only: Collection[str] | None = None) -> ScanRecord:
    """Read a scan file: all of its arrays, or ``only`` those named (``READABLE``).

    Geometry, thresholds, air and exposure are always read. Arrays that are read are checked as
    by ``faults``. Dead pixels may have NaN in counts and air, or zero air. Counts and air above
    thresholds are read as counts in bins, NaN where they rise with the threshold.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the first fault of the file, and how
            to list the others.
    """
    path = Path(path)
    wanted = set(READABLE if only is None else only) | _ALWAYS
    if unknown := wanted - set(READABLE):
        raise ValueError(f"unknown arrays {sorted(unknown)}; accepted: {', '.join(READABLE)}")
    if not path.is_file():
        raise FileNotFoundError(f"no scan at {path}: check its name and folder")
    try:
        with opened(path) as file:
            checked = [name for name in ARRAYS if name.partition("/")[0] in {*wanted, "geometry"}]
            wrong, doubts = findings_in(file, checked)
            _refuse(str(path), wrong, f": python -m pcctlearn check {path}")
            return _read(file, wanted, doubts)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: {_unreadable(error)}") from error


def write_scan(path: str | Path, scan: ScanRecord) -> None:
    """Write a scan file, whole or not at all, and only if it is valid.

    It is checked by ``faults`` before it gets its name. Arrays are rounded to the precision of the
    schema.

    Raises:
        ValueError: the first fault of the scan. OSError: the disk is full, or the folder cannot be
            written to.
    """
    path = Path(path)
    with written_whole(path) as temporary:
        with h5py.File(temporary, "w") as file:
            _write(file, scan)
        _refuse(f"{path} is not written", faults(temporary), "")


def summary(path: str | Path) -> str:
    """Arrays, thresholds, exposure, dead pixels, geometry and warnings of a valid file."""
    scan = read_scan(path, only={*_ALWAYS, "counts", "spectrum", "response"})
    lines = [f"name: {shown(scan.name)}"]
    with h5py.File(path, "r") as file:
        is_above = counted(file.attrs) == "above"
        for name in (name for name in ARRAYS if name in file):
            axes = zip(ARRAYS[name].axes_of(file[name].ndim), file[name].shape, strict=True)
            sizes = ", ".join(f"{axis} {size}" for axis, size in axes)
            above = ", above thresholds" if name in MEASURED and is_above else ""
            lines.append(f"{name}: {sizes}; {ARRAYS[name].unit}{above}")
        if "scatter" in file and (primary := _total(file["primary"]) if "primary" in file else 0):
            ratio = _total(file["scatter"]) / primary
            lines.append(f"scatter-to-primary ratio of all photons: {ratio:.4g}")
    edges, note = scan.thresholds_keV, ""
    if edges.ndim > 1:
        edges, note = edges.mean((0, 1)), ", mean over pixels"
    lines.append(f"thresholds: {', '.join(f'{edge:.5g}' for edge in edges.tolist())} keV{note}")
    exposure = scan.air.sum(0).nanmean().item()
    lines.append(f"exposure: {exposure:.4g} photons per pixel and view without object, all bins")
    if dead := listed(dead_pixels(scan.at("counts"), scan.air)):
        lines.append(f"dead pixels, which evaluate.py fills from their neighbours: {dead}")
    doubts = [*scan.doubts, *scan.geometry.truncations(scan.grid)]
    return "\n".join(
        [*lines, str(scan.geometry), str(scan.grid), *(f"warning: {doubt}" for doubt in doubts)]
    )


def _refuse(subject: str, wrong: list[str], to_list: str) -> None:
    """Raise ValueError with the first fault, the number of others, and how to list them."""
    if wrong:
        more = f" ({len(wrong) - 1} more{to_list})" if len(wrong) > 1 else ""
        raise ValueError(f"{subject}: {wrong[0]}{more}")


def _unreadable(error: Exception) -> str:
    reason = str(error)
    if "truncated" in reason:
        return "the file is truncated: copy or download it again"
    if "signature not found" in reason:
        return "it is not an HDF5 file: write it as docs/scan_file.md shows"
    return f"it cannot be read ({reason}): check that you may read it, or copy it again"


def _total(dataset: h5py.Dataset) -> float:
    return sum(float(values.sum(dtype="float64")) for _, values in blocks(dataset))


def _read(file: h5py.File, wanted: Collection[str], doubts: Sequence[str]) -> ScanRecord:
    def tensor(name: str) -> Tensor:
        is_above = name in MEASURED and counted(file.attrs) == "above"
        stored = InBins(file[name]) if is_above else file[name]
        return torch.from_numpy(stored.astype(ARRAYS[name].dtype)[()])

    geometry = geometry_of(file["geometry"])
    grid = grid_of(file["geometry"], geometry)
    found: dict[str, Any] = {"geometry": geometry, "grid": grid}
    for name, kind in _ROOT_ATTRIBUTES.items():
        if name in file.attrs:
            values = texts(file.attrs, name) if kind is str else np.ravel(file.attrs[name])
            found[name] = kind(values[0])
    for name in [name for name in READABLE if name in file]:
        if name in MATERIALS:
            found[MATERIALS[name]] = texts(file[name].attrs, "materials")
        if name == "maps":
            found["maps_grid"] = maps_grid_of(file[name]) or grid
        if name in wanted:
            members = _GROUPS[name]._fields if name in _GROUPS else ()
            parts = [tensor(f"{name}/{member}") for member in members]
            found[name] = _GROUPS[name](*parts) if members else tensor(name)
    if counted(file.attrs) == "above" and {"spectrum", "response"} <= file.keys():
        energies, deposited = tensor("spectrum/energies_keV"), tensor("response/deposited_keV")
        for name in {"thresholds_keV", "true_thresholds_keV"} & found.keys():
            found[name] = without_upper_limit(found[name], energies, deposited)
    return ScanRecord(**found, doubts=tuple(doubts))


def _write(file: h5py.File, scan: ScanRecord) -> None:
    file.attrs.update(schema=SCHEMA, schema_version=SCHEMA_VERSION, counted="bins")
    for name in _ROOT_ATTRIBUTES:
        if (value := getattr(scan, name)) is not None:
            file.attrs[name] = value
    _write_parameters(file.create_group("geometry").attrs, scan.geometry)
    file["geometry"].attrs["beam"] = next(
        name for name, kind in BEAMS.items() if isinstance(scan.geometry, kind)
    )
    _write_parameters(file.create_group("geometry/volume").attrs, scan.grid)
    for name, array in ARRAYS.items():
        group, _, member = name.rpartition("/")
        member = _MEMBERS.get(name, member)
        holder = getattr(scan, group) if group else scan
        values = getattr(holder, member, None)
        if values is None:
            continue
        kept = values.detach().cpu() if isinstance(values, Tensor) else values
        dataset = _create(file, name, np.asarray(kept, array.dtype))
        dataset.attrs["unit"] = array.unit
        if name in MATERIALS:
            dataset.attrs["materials"] = list(getattr(scan, MATERIALS[name]))
        if name == "maps" and (grid := scan.maps_grid) not in (None, scan.grid):
            dataset.attrs.update(voxel_cm=grid.spacing_cm, center_cm=grid.center_cm)


def _create(file: h5py.File, name: str, values: np.ndarray) -> h5py.Dataset:
    options: dict[str, Any] = {"fletcher32": values.size > 0 and values.ndim > 0}
    if values.ndim >= 4 and values.size:
        chunks = (len(values), 1, *values.shape[2:])  # a view, or a slice, can be read alone
        options |= {
            "chunks": chunks,
            "compression": "gzip",
            "compression_opts": 1,
            "shuffle": True,
        }
    return file.create_dataset(name, data=values, **options)


def _write_parameters(attributes: h5py.AttributeManager, parts: Any) -> None:
    for field in fields(parts):
        if field.name != "view_angles_rad":
            attributes[field.name] = getattr(parts, field.name)
