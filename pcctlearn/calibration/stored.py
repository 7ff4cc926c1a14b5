"""HDF5 files with a schema: checked before they are read, and written whole or not at all."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from pcctlearn.files.atomic import written_whole
from pcctlearn.reading.text import shown
from pcctlearn.scans.schema import StoredArray, texts
from pcctlearn.scans.storage import items_in, opened
from pcctlearn.scans.validation.arrays import (
    array_faults,
    material_names_faults,
    misspelt_names,
    unit_faults,
)
from pcctlearn.scans.validation.values import value_faults


@dataclass(frozen=True)
class FileSchema:
    """What a kind of file holds.

    Args:
        title: text of the root attribute ``schema``.
        version: whole number of the root attribute ``schema_version``.
        page: document that describes it.
        arrays: datasets by name.
        names: {dataset: its attribute that names the entries of its first axis}.
        choices: root attributes that must be one of these texts.
        attributes: types of further root attributes, which may be absent; ``tuple`` is a list of
            texts.
    """

    title: str
    version: int
    page: str
    arrays: Mapping[str, StoredArray]
    names: Mapping[str, str]
    choices: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, type]


@dataclass(frozen=True)
class Contents:
    """Arrays by name, names of the entries of their first axes, and root attributes."""

    arrays: dict[str, Tensor]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


def stored_faults(path: Path, schema: FileSchema) -> list[str]:
    """All faults of a file, one sentence each; empty for a valid one."""
    if not path.is_file():
        return ["there is no such file: check its name and folder"]
    try:
        with opened(path) as file:
            return _faults_in(file, schema)
    except (OSError, RuntimeError) as error:
        return [f"it cannot be read ({error}): write it as {schema.page} shows, or copy it again"]


def read_stored(path: Path, schema: FileSchema) -> Contents:
    """Read a whole file.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the first fault of the file, and how
            to list the others.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {schema.title} at {path}: check its name and folder")
    if wrong := stored_faults(path, schema):
        others = f" ({len(wrong) - 1} more: python -m pcctlearn check {path})"
        raise ValueError(f"{path}: {wrong[0]}{others if len(wrong) > 1 else ''}")
    with opened(path) as file:
        present = {name: file[name] for name in schema.arrays if name in file}
        arrays = {
            name: torch.from_numpy(item.astype(schema.arrays[name].dtype)[()])
            for name, item in present.items()
        }
        names = {
            name: texts(present[name].attrs, attribute)
            for name, attribute in schema.names.items()
            if name in present
        }
        found: dict[str, Any] = {}
        for name, kind in {**dict.fromkeys(schema.choices, str), **schema.attributes}.items():
            if name in file.attrs:
                values = (_numbers if kind in (int, float) else texts)(file.attrs, name)
                found[name] = values if kind is tuple else kind(values[0])
    return Contents(arrays, names, found)


def write_stored(path: Path, schema: FileSchema, contents: Contents) -> None:
    """Write a file, whole or not at all, and only if it is valid.

    Raises:
        ValueError: the first fault. OSError: the disk is full, or the folder cannot be written to.
    """
    with written_whole(path) as temporary:
        with h5py.File(temporary, "w") as file:
            file.attrs.update(schema=schema.title, schema_version=schema.version)
            file.attrs.update({k: v for k, v in contents.attributes.items() if v is not None})
            for name, values in contents.arrays.items():
                array = schema.arrays[name]
                kept = np.asarray(values.detach().cpu(), array.dtype)
                dataset = file.create_dataset(name, data=kept, fletcher32=kept.size > 0)
                dataset.attrs["unit"] = array.unit
                if name in schema.names:
                    dataset.attrs[schema.names[name]] = list(contents.names[name])
        if wrong := stored_faults(temporary, schema):
            raise ValueError(f"{path} is not written: {wrong[0]}")


def schema_of(path: Path) -> str:
    """The root attribute ``schema`` of a file; empty if it cannot be read."""
    try:
        with opened(path) as file:
            return " ".join(texts(file.attrs, "schema"))
    except (OSError, RuntimeError):
        return ""


def listed_arrays(path: Path, schema: FileSchema) -> list[str]:
    """A line for each dataset of a valid file: its axes, sizes and unit."""
    with opened(path) as file:
        lines = []
        for name in (name for name in schema.arrays if name in file):
            axes = schema.arrays[name].axes_of(file[name].ndim)
            sizes = zip(axes, file[name].shape, strict=True)
            lines.append(
                f"{name}: {', '.join(f'{axis} {n}' for axis, n in sizes)}; "
                f"{schema.arrays[name].unit}"
            )
    return lines


def digest_of_file(path: Path) -> str:
    """SHA-256 of the content of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _faults_in(file: h5py.File, schema: FileSchema) -> list[str]:
    if wrong := list(_version_faults(file.attrs, schema)):
        return wrong
    items, foreign_links = items_in(file, schema.arrays)
    if foreign_links:
        return foreign_links
    faults = list(_root_faults(file.attrs, schema))
    readable: dict[str, h5py.Dataset] = {}
    for name, array in schema.arrays.items():
        wrong = list(array_faults(name, array, items))
        faults += wrong
        if items[name] is not None and not wrong:
            readable[name] = items[name]
    faults += misspelt_names(file, schema.arrays)
    faults += _size_faults(readable, schema)
    for name, item in readable.items():
        faults += _name_faults(name, item, schema)
        faults += unit_faults(name, schema.arrays[name], item)
        faults += value_faults(name, schema.arrays[name], item)
    return faults


def _version_faults(attributes: Mapping[str, Any], schema: FileSchema) -> Iterator[str]:
    """Another kind of file or another version; nothing else is then checked."""
    if texts(attributes, "schema") != (schema.title,):
        got = shown(" ".join(texts(attributes, "schema"))) or "nothing"
        yield (
            f"the root attribute schema must be {schema.title!r}, got {got!r}: give a file as in "
            f"{schema.page}"
        )
        return
    version = np.asarray(attributes.get("schema_version", 0))
    if not (version.size == 1 and version.dtype.kind in "iuf" and version.item() == schema.version):
        yield (
            f"schema_version must be {schema.version}, got {shown(repr(version.tolist()))}: write "
            f"the file as {schema.page} shows, or update pcctlearn"
        )


def _root_faults(attributes: Mapping[str, Any], schema: FileSchema) -> Iterator[str]:
    for name, accepted in schema.choices.items():
        if (got := " ".join(texts(attributes, name))) not in accepted:
            yield (
                f"the root attribute {name} must be {' or '.join(map(repr, accepted))}, got "
                f"{shown(got) or 'nothing'!r}: set it"
            )
    for name, kind in schema.attributes.items():
        value = np.asarray(attributes.get(name, ()))
        is_number = value.size == 1 and value.dtype.kind in "iuf" and np.isfinite(value).all()
        if kind in (int, float) and name in attributes and not is_number:
            yield (
                f"the root attribute {name} must be a number, got "
                f"{shown(repr(value.tolist()))}: correct it"
            )
        if kind is tuple and value.size and value.dtype.kind not in "SUO":
            yield (
                f"the root attribute {name} must be a list of texts, got "
                f"{shown(repr(value.tolist()))}: correct it, or delete it if there are none"
            )


def _name_faults(name: str, item: h5py.Dataset, schema: FileSchema) -> Iterator[str]:
    attribute = schema.names.get(name)
    if attribute == "materials":
        yield from material_names_faults(name, item, needs_density=True)
    elif attribute is not None and len(texts(item.attrs, attribute)) != len(item):
        yield (
            f"the attribute {attribute} of {name} must have {len(item)} texts: list one for each "
            "entry of its first axis"
        )


def _numbers(attributes: Mapping[str, Any], name: str) -> np.ndarray:
    return np.ravel(attributes[name])


def _size_faults(arrays: Mapping[str, h5py.Dataset], schema: FileSchema) -> Iterator[str]:
    """Axes of the same name and different sizes."""
    first: dict[str, tuple[str, int]] = {}
    for name, item in arrays.items():
        group = name.rpartition("/")[0]
        for axis, size in zip(schema.arrays[name].axes_of(item.ndim), item.shape, strict=True):
            own = axis in ("energy", "material")  # those of each group or array
            key = f"{group or name} {axis}" if own else axis
            other, expected = first.setdefault(key, (name, size))
            if size != expected:
                yield (
                    f"{name} has {size} along its axis {axis}, {other} {expected}: store both of "
                    "the same measurement, axes in the order of the schema"
                )
