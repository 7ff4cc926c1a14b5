"""Check each dataset of a file against its schema: name, type, axes, unit and materials."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import torch

from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.physics.spectrum import transmission
from pcctlearn.reading.text import shown
from pcctlearn.scans.schema import MATERIALS, StoredArray, texts
from pcctlearn.scans.storage import storage_faults

_ENERGY_keV = torch.tensor([60.0], dtype=torch.float64)  # any, to look a material up
# (unit of the schema, unit found, in lower case): how to convert the values
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


def array_faults(name: str, array: StoredArray, items: Mapping[str, Any]) -> Iterator[str]:
    """Yield the first fault that makes a dataset unreadable.

    Args:
        name, array: name of the dataset, and what the schema says of it.
        items: objects of the file by name.
    """
    item = items[name]
    axes = array.axes.replace(" |", ", or as")
    if item is None:
        group = name.partition("/")[0]
        in_group = group in ("spectrum", "response") and isinstance(items.get(group), h5py.Group)
        if array.required or in_group:
            others = f" beside the others in {group}" if in_group else ""
            yield f"{name} is missing{others}: add it, axes {axes}, in {array.unit}"
    elif not isinstance(item, h5py.Dataset):
        kind = "a group" if isinstance(item, h5py.Group) else "a named data type"
        yield f"{name} must be a dataset, got {kind}: store one array, axes {axes}"
    elif item.dtype.kind not in "iuf":
        yield f"{name} holds {item.dtype}, not numbers: write it as {array.dtype}"
    elif not array.axes_of(item.ndim):
        yield f"{name} has {item.ndim} axes, shape {item.shape}: store it with axes {axes}"
    elif item.size == 0:
        yield f"{name} is empty, shape {item.shape}: fill it, or leave it out of the file"
    else:
        yield from storage_faults(name, item)


def unit_faults(name: str, array: StoredArray, item: h5py.Dataset) -> Iterator[str]:
    """A sentence if the attribute ``unit`` is not that of the schema."""
    expected, got = array.unit, shown(" ".join(texts(item.attrs, "unit")))
    if not got:
        yield f"{name} has no attribute unit: set it to {expected!r}, if that is its unit"
    elif got != expected:
        change = _CONVERSIONS.get((expected, got.lower()), "convert the values")
        yield (
            f"unit of {name} must be {expected!r}, got {got!r}: {change} and set the attribute unit"
        )


def misspelt_names(file: h5py.File, names: Iterable[str]) -> Iterator[str]:
    """Unknown names that resemble one that is absent; all others are the user's own."""
    known = {name.partition("/")[0] for name in names}
    for name in file:
        close = difflib.get_close_matches(name, known - set(file), n=1, cutoff=0.75)
        if name not in known and close:
            yield f"{shown(name)} is not a name of the schema, and {close[0]} is absent: rename it"


def material_faults(arrays: Mapping[str, h5py.Dataset]) -> Iterator[str]:
    """Names that are too few or too many, unknown, or different for line integrals and maps."""
    materials = {
        name: texts(arrays[name].attrs, "materials") for name in MATERIALS if name in arrays
    }
    for name in materials:
        yield from material_names_faults(name, arrays[name], needs_density=name == "skew_cm")
    if {"line_integrals", "maps"} <= materials.keys():
        one, other = materials["line_integrals"], materials["maps"]
        if one != other:
            yield (
                f"line_integrals are of {_listed(one)}, maps of {_listed(other)}: give both the "
                "same materials in the same order"
            )


def material_names_faults(name: str, item: h5py.Dataset, needs_density: bool) -> Iterator[str]:
    """An attribute ``materials`` that does not name a known material for each entry of axis 0."""
    named, n_expected = texts(item.attrs, "materials"), item.shape[0]
    if len(named) != n_expected:
        yield (
            f"the attribute materials of {name} must name {n_expected}, got {_listed(named)}: "
            "list one for each entry of its first axis"
        )
    for material in named:
        try:
            if needs_density:
                transmission(material, 0.0, _ENERGY_keV)
            else:
                mass_attenuation(material, _ENERGY_keV)
        except ValueError as error:
            yield f"the attribute materials of {name}: {shown(str(error), 300)}"


def _listed(names: tuple[str, ...]) -> str:
    return shown(str(list(names)))
