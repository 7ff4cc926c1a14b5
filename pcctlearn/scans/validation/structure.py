"""What is wrong with a scan file, in sentences that say how to mend it."""

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

import h5py
import numpy as np
import torch

from pcctlearn.patients.patient_frame import frame_faults
from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.physics.spectrum import transmission
from pcctlearn.reading.sizes import usable_bytes
from pcctlearn.reading.text import shown
from pcctlearn.scans.schema import (
    ARRAYS,
    GROUPS,
    MAPS_GRID,
    MATERIALS,
    SCHEMA,
    SCHEMA_VERSION,
    ScanArray,
    geometry_of,
    grid_of,
    maps_grid_of,
    texts,
)
from pcctlearn.scans.storage import ForeignLinkError, item_at, storage_faults
from pcctlearn.scans.validation.air import Findings
from pcctlearn.scans.validation.lengths import length_doubts
from pcctlearn.scans.validation.values import (
    count_faults,
    count_findings,
    exposure_faults,
    value_faults,
    water_model,
)
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

# (wanted, got, in small letters): how to come from one to the other
_CONVERSIONS = {
    ("keV", "ev"): "divide by 1000",
    ("keV", "mev"): "multiply by 1000",
    ("cm", "mm"): "divide by 10",
    ("cm", "um"): "divide by 10000",
    ("rad", "deg"): "multiply by π / 180",
    ("rad", "degrees"): "multiply by π / 180",
    ("g/cm3", "mg/ml"): "divide by 1000",
    ("g/cm3", "mg/cm3"): "divide by 1000",
    ("g/cm3", "kg/m3"): "divide by 1000",
    ("g/cm2", "mg/cm2"): "divide by 1000",
    ("1/keV", "1/ev"): "multiply by 1000",
}
_VOXELS = ("n_z", "n_y", "n_x")
_SAME_SCAN = "store both of the same scan, axes in the order of the schema"


def findings_in(file: h5py.File, checked: Collection[str] = tuple(ARRAYS)) -> Findings:
    """Faults of a file, and doubts about one without faults, one sentence each.

    A sentence names the dataset, what is wrong, and the remedy. ``checked`` are the arrays whose
    values are looked at; of the others it is only name, axes and unit.
    """
    if newer := list(_version_fault(file.attrs)):
        return Findings(newer, [])
    if foreign := list(_foreign_faults(file)):
        return Findings(foreign, [])
    faults = list(_passport_faults(file.attrs))
    sound: dict[str, h5py.Dataset] = {}  # what later checks may rely on
    faults += _absent_or_unreadable(file, sound)
    faults += _misspelt(file)
    n_faults = len(faults)
    for find in (_transposed, _size_faults):
        for name, sentence in list(find(file, sound)):
            faults.append(sentence)
            sound.pop(name, None)
    consistent = n_faults == len(faults)
    faults += _material_faults(sound)
    faults += _geometry_faults(file, sound, consistent)
    if "maps" in sound:
        faults += _maps_grid_faults(sound["maps"], "geometry/volume" in file)
    good: dict[str, h5py.Dataset] = {}
    for name, item in sound.items():
        wrong = list(_unit_faults(name, item))
        if name in checked:
            wrong += value_faults(name, item)
        faults += wrong
        if name in checked and not wrong:
            good[name] = item
    if "scanner_to_patient" in good:
        faults += frame_faults(good["scanner_to_patient"][()].astype(float))
    counted = _findings(good)
    faults += [*count_faults(good), *_model_faults(good), *counted.faults]
    if faults:
        return Findings(faults, [])
    # without the model that the file may hold, counts are not doubted
    doubts = counted.doubts if "spectrum/energies_keV" in checked else []
    return Findings([], [*doubts, *length_doubts(geometry_of(file["geometry"]))])


def _absent_or_unreadable(file: h5py.File, sound: dict[str, h5py.Dataset]) -> Iterator[str]:
    """Faults of groups and of single arrays; those without are put into ``sound``."""
    for group in GROUPS:
        if isinstance(_item(file, group), h5py.Dataset):
            yield f"{group} must be a group, got a dataset: store its members in a group"
    for name, array in ARRAYS.items():
        item = _item(file, name)
        wrong = list(_array_faults(file, name, array, item))
        yield from wrong
        if item is not None and not wrong:
            sound[name] = item


def _model_faults(good: Mapping[str, h5py.Dataset]) -> Iterator[str]:
    try:
        water_model(good)
    except ValueError as error:
        yield f"spectrum, response and thresholds_keV do not fit together: {error}"


def _findings(good: Mapping[str, h5py.Dataset]) -> Findings:
    if not {"counts", "air"} <= good.keys() or any(exposure_faults(good["counts"], good["air"])):
        return Findings([], [])
    try:
        model = water_model(good)
    except ValueError:  # reported by _model_faults
        return Findings([], [])
    return count_findings(
        good["counts"], torch.from_numpy(good["air"].astype("float32")[()]), model
    )


def _item(file: h5py.File, name: str) -> Any:
    try:
        return item_at(file, name)
    except ForeignLinkError:  # reported by _foreign_faults
        return None


def _passport_faults(attributes: Mapping[str, Any]) -> Iterator[str]:
    if texts(attributes, "schema") != (SCHEMA,):
        got = shown(" ".join(texts(attributes, "schema"))) or "nothing"
        yield (
            f"the root attribute schema must be {SCHEMA!r}, got {got!r}: set it, if this HDF5 file "
            "is meant to be a scan"
        )
    if not any(texts(attributes, "name")):
        yield "the root attribute name is missing: say in a few words what was scanned"
    for name, whole in (("schema_version", True), ("seed", True), ("grid_transmission", False)):
        value = np.asarray(attributes.get(name, 1))
        is_number = value.size == 1 and value.dtype.kind in "iuf" and 0 <= value.item() < math.inf
        if not is_number or (whole and value.item() != int(value.item())):
            kind = "whole number" if whole else "number"
            yield (
                f"the root attribute {name} must be a {kind}, not negative, got "
                f"{shown(repr(value.tolist()))}: write it as one"
            )
    if "schema_version" not in attributes:
        yield f"the root attribute schema_version is missing: write {SCHEMA_VERSION}"


def _foreign_faults(file: h5py.File) -> Iterator[str]:
    """Links out of the file; where there is one, nothing else is checked."""
    for name in [*GROUPS, *ARRAYS]:
        try:
            item_at(file, name)
        except ForeignLinkError as error:
            yield str(error)


def _version_fault(attributes: Mapping[str, Any]) -> Iterator[str]:
    """A file of another version is looked at no further."""
    value = np.asarray(attributes.get("schema_version", SCHEMA_VERSION))
    if value.size == 1 and value.dtype.kind in "iuf" and value.item() != SCHEMA_VERSION:
        remedy = "update pcctlearn" if value.item() > SCHEMA_VERSION else "write the file again"
        yield (
            f"schema_version is {value.item()}, and this pcctlearn reads {SCHEMA_VERSION}: {remedy}"
        )


def _array_faults(file: h5py.File, name: str, array: ScanArray, item: Any) -> Iterator[str]:
    group = name.partition("/")[0]
    axes = array.axes.replace(" |", ", or as")
    if item is None:
        in_group = group in ("spectrum", "response") and isinstance(_item(file, group), h5py.Group)
        if array.required or in_group:
            beside = f" beside the others in {group}" if in_group else ""
            yield f"{name} is missing{beside}: add it, axes {axes}, in {array.unit}"
        return
    if not isinstance(item, h5py.Dataset):
        kind = "a group" if isinstance(item, h5py.Group) else "a named data type"
        yield f"{name} must be a dataset, got {kind}: store one array, axes {axes}"
        return
    if item.dtype.kind not in "iuf":
        yield f"{name} holds {item.dtype}, not numbers: write it as {array.dtype}"
    elif not array.axes_of(item.ndim):
        yield f"{name} has {item.ndim} axes, shape {item.shape}: store it with axes {axes}"
    elif item.size == 0:
        yield f"{name} is empty, shape {item.shape}: fill it, or leave it out of the file"
    else:
        yield from storage_faults(name, item)


def _unit_faults(name: str, item: h5py.Dataset) -> Iterator[str]:
    wanted, got = ARRAYS[name].unit, shown(" ".join(texts(item.attrs, "unit")))
    if not got:
        yield f"{name} has no attribute unit: set it to {wanted!r}, if that is its unit"
    elif got != wanted:
        change = _CONVERSIONS.get((wanted, got.lower()), "convert the values")
        yield f"unit of {name} must be {wanted!r}, not {got!r}: {change} and set the attribute unit"


def _misspelt(file: h5py.File) -> Iterator[str]:
    """Only what is near a name that is absent: users may keep other things in their files."""
    known = {name.partition("/")[0] for name in ARRAYS}
    for name in file:
        close = difflib.get_close_matches(name, known - set(file), n=1, cutoff=0.75)
        if name not in known and close:
            yield f"{shown(name)} is no name of this schema, and {close[0]} is absent: rename it"


def _transposed(file: h5py.File, sound: Mapping[str, h5py.Dataset]) -> Iterator[tuple[str, str]]:
    """Arrays of the sizes that geometry and thresholds have, in another order; and sentences."""
    known = {axis: n for _, sizes in _geometry_sizes(file) for axis, n in sizes.items()}
    if "thresholds_keV" in sound:
        known["bin"] = sound["thresholds_keV"].shape[-1] - 1
    for name, item in sound.items():
        axes = ARRAYS[name].axes_of(item.ndim)
        wanted = tuple(known.get(axis, 0) for axis in axes)
        if item.shape != wanted and sorted(item.shape) == sorted(wanted):
            yield (
                name,
                f"{name} has shape {item.shape}, where its axes {' '.join(axes)} would be "
                f"{wanted}: transpose it",
            )


def _size_faults(file: h5py.File, sound: Mapping[str, h5py.Dataset]) -> Iterator[tuple[str, str]]:
    """Of two that disagree, the name of the later, and the sentence."""
    known: dict[str, tuple[str, int]] = {}
    for name, sizes in [*_array_sizes(sound), *_geometry_sizes(file)]:
        for axis, size in sizes.items():
            other, expected = known.setdefault(axis, (name, size))
            if size == expected:
                continue
            has, remedy = f"{size} along its axis {axis}, {other} {expected}", _SAME_SCAN
            if axis == "bin" and "thresholds" in name:
                has = f"{size + 1} edges for the {expected} bins of {other}"
                remedy = "list one edge more than there are bins, the last one the upper limit"
            if axis in ("z", "y", "x"):
                remedy = "maps on a grid of their own need the attributes voxel_cm and center_cm"
            yield name, f"{name} has {has}: {remedy}"


def _array_sizes(sound: Mapping[str, h5py.Dataset]) -> Iterator[tuple[str, dict[str, int]]]:
    for name, item in sound.items():
        sizes = dict(zip(ARRAYS[name].axes_of(item.ndim), item.shape, strict=True))
        if "edge" in sizes:
            sizes["bin"] = sizes.pop("edge") - 1
        if "energy" in sizes:  # spectrum and response need not have the same
            sizes[name.partition("/")[0] + " energy"] = sizes.pop("energy")
        if "z" in sizes and MAPS_GRID & set(item.attrs):
            sizes = {"material": sizes["material"]}
        yield name, sizes


def _geometry_sizes(file: h5py.File) -> Iterator[tuple[str, dict[str, int]]]:
    for group, axes in (("geometry", ("view", "row", "column")), ("geometry/volume", "zyx")):
        item = _item(file, group)
        for axis in axes if isinstance(item, h5py.Group) else ():
            name = f"n_{axis}" if len(axis) == 1 else f"n_{axis}s"
            value = np.asarray(item.attrs.get(name, "absent"))
            if value.size == 1 and value.dtype.kind in "iuf":
                yield f"{group} ({name})", {axis: value.item()}


def _material_faults(sound: Mapping[str, h5py.Dataset]) -> Iterator[str]:
    energies = torch.tensor([60.0], dtype=torch.float64)
    for name in [name for name in MATERIALS if name in sound]:
        materials, n_wanted = texts(sound[name].attrs, "materials"), sound[name].shape[0]
        if len(materials) != n_wanted:
            yield (
                f"the attribute materials of {name} must name {n_wanted}, got "
                f"{shown(str(list(materials)))}: "
                "list one for each entry of its first axis"
            )
        for material in materials:
            try:
                if name == "skew_cm":
                    transmission(material, 0.0, energies)
                else:
                    mass_attenuation(material, energies)
            except ValueError as error:
                yield f"the attribute materials of {name}: {shown(str(error), 300)}"
    if {"line_integrals", "maps"} <= sound.keys():
        both = [texts(sound[name].attrs, "materials") for name in ("line_integrals", "maps")]
        if both[0] != both[1]:
            yield (
                f"line_integrals are of {shown(str(list(both[0])))}, maps of "
                f"{shown(str(list(both[1])))}: give both the same materials in the same order"
            )


def _geometry_faults(
    file: h5py.File, sound: Mapping[str, h5py.Dataset], consistent: bool
) -> Iterator[str]:
    """Faults of the groups; the scanner is built where its sizes are those of the counts."""
    wrong = not (consistent and "counts" in sound)
    for group, kind in (("geometry", ConeBeam), ("geometry/volume", VolumeGrid)):
        item = _item(file, group)
        if item is None and kind is ConeBeam:
            wrong = True
            yield "the group geometry is missing: add it, with parameters of ConeBeam as attributes"
        elif isinstance(item, h5py.Group):
            for fault in _parameter_faults(group, item.attrs, kind):
                wrong = True
                yield fault
        elif item is not None:
            wrong = True
    angles = "geometry/measured_angles_rad"
    if not wrong and "geometry/volume" in file:
        for sentence in _volume_faults(file["geometry/volume"].attrs):
            wrong = True
            yield sentence
    if not wrong and (angles in sound or _item(file, angles) is None):
        try:
            grid_of(file["geometry"], geometry_of(file["geometry"]))
        except ValueError as error:
            yield f"geometry: {error}"


def _volume_faults(attributes: Mapping[str, Any]) -> Iterator[str]:
    n_voxels = math.prod(float(np.asarray(attributes[name]).item()) for name in _VOXELS)
    if not 4 * n_voxels < usable_bytes():
        yield (
            f"geometry/volume has {n_voxels:.3g} voxels, more than the free memory holds: lower "
            "n_z, n_y and n_x, and enlarge voxel_cm"
        )


def _maps_grid_faults(maps: h5py.Dataset, has_volume: bool) -> Iterator[str]:
    if not has_volume and not MAPS_GRID & set(maps.attrs):
        yield "the grid of maps is unknown: add geometry/volume, or voxel_cm and center_cm of maps"
        return
    if len(MAPS_GRID & set(maps.attrs)) == 1:
        yield "maps have one of the attributes voxel_cm and center_cm: give both (z, y, x), or none"
        return
    try:
        maps_grid_of(maps)
    except ValueError as error:
        yield f"the grid of maps: {error}"


def _parameter_faults(group: str, attributes: Mapping[str, Any], kind: type) -> Iterator[str]:
    """Whether a group's attributes are the numbers that a dataclass takes."""
    lengths = {"pixel_cm": (1, 2), "voxel_cm": (1, 3), "center_cm": (3,)}
    parameters = {f.name: f for f in fields(kind) if f.name != "view_angles_rad"}
    for name in attributes:
        if name not in parameters and not name.isupper():  # CLASS, TITLE: of other programs
            close = difflib.get_close_matches(name, parameters, n=1)
            meant = f"did you mean {close[0]}?" if close else f"accepted: {', '.join(parameters)}"
            yield f"unknown attribute {shown(name)} of {group}: {meant}"
    for name, parameter in parameters.items():
        if name not in attributes:
            if parameter.default is MISSING:
                yield f"{group} has no attribute {name}: add it, a number in the unit of its name"
            continue
        value, wanted = np.asarray(attributes[name]), lengths.get(name, (1,))
        if value.dtype.kind not in "iuf" or value.size not in wanted or value.ndim > 1:
            count = " or ".join(map(str, wanted))
            yield (
                f"{name} of {group} must be {count} number(s), got "
                f"{shown(repr(value.tolist()))}: write it so"
            )
        elif name.startswith("n_") and not float(value.item()).is_integer():
            yield f"{name} of {group} must be a whole number, got {value.item()}: count again"
