"""Check the attributes of a scan file and of its groups."""

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

import numpy as np

from pcctlearn.reading.text import shown
from pcctlearn.scans.counted import COUNTED
from pcctlearn.scans.schema import (
    BEAMS,
    READABLE_VERSIONS,
    SCHEMA,
    SCHEMA_VERSION,
    beam_of,
    texts,
)
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid


class Number(NamedTuple):
    """The numbers that an attribute may hold; ``sizes`` lists how many."""

    sizes: tuple[int, ...] = (1,)
    whole: bool = False
    non_negative: bool = False
    required: bool = False

    def accepts(self, value: np.ndarray) -> bool:
        """Whether an attribute may have this value."""
        if value.dtype.kind not in "iuf" or value.size not in self.sizes:
            return False
        sound = value.size == 1 or value.ndim == 1
        for number in value.ravel().tolist():
            sound &= not self.whole or float(number).is_integer()
            sound &= not self.non_negative or 0 <= number < math.inf
        return sound

    def __str__(self) -> str:
        kind = ("non-negative " if self.non_negative else "") + ("whole " if self.whole else "")
        if self.sizes == (1,):
            return f"a {kind}number"
        return f"{' or '.join(map(str, self.sizes))} {kind}numbers"


_SIZES: dict[tuple[Any, str], tuple[int, ...]] = {
    (ConeBeam, "pixel_cm"): (1, 2),
    (VolumeGrid, "voxel_cm"): (1, 3),
    (VolumeGrid, "center_cm"): (3,),
}


def parameters(group: str, attributes: Mapping[str, Any]) -> dict[str, Number]:
    """The numbers that the attributes of a group describe."""
    kind = VolumeGrid if group == "geometry/volume" else beam_of(attributes)
    return {
        field.name: Number(
            _SIZES.get((kind, field.name), (1,)),
            whole=field.name.startswith("n_"),
            required=field.default is MISSING,
        )
        for field in fields(kind)
        if field.name != "view_angles_rad"
    }


_ROOT = {
    "schema_version": Number(whole=True, non_negative=True),
    "seed": Number(whole=True, non_negative=True),
    "grid_transmission": Number(non_negative=True),
    "view_s": Number(non_negative=True),
}
PARAMETERS = ("geometry", "geometry/volume")  # groups whose attributes are parameters


def version_faults(attributes: Mapping[str, Any]) -> Iterator[str]:
    """A sentence if the file has another version of the schema; nothing else is then checked."""
    value = np.asarray(attributes.get("schema_version", SCHEMA_VERSION))
    if value.size == 1 and value.dtype.kind in "iuf" and value.item() not in READABLE_VERSIONS:
        remedy = "update pcctlearn" if value.item() > SCHEMA_VERSION else "write the file again"
        known = " and ".join(map(str, READABLE_VERSIONS))
        yield f"schema_version is {value.item()}, and this pcctlearn reads {known}: {remedy}"


def counted_faults(root: Mapping[str, Any]) -> Iterator[str]:
    """A sentence if the root does not say how photons are counted, or is of version 1 and does."""
    return _choice_faults(root, "counted", "the root", root, COUNTED)


def beam_faults(root: Mapping[str, Any], geometry: Mapping[str, Any]) -> Iterator[str]:
    """A sentence if geometry does not name its beam, or the file is of version 1 and does."""
    return _choice_faults(root, "beam", "geometry", geometry, BEAMS)


def _choice_faults(
    root: Mapping[str, Any],
    name: str,
    owner: str,
    attributes: Mapping[str, Any],
    accepted: Collection[str],
) -> Iterator[str]:
    version = np.asarray(root.get("schema_version", SCHEMA_VERSION))
    if version.size == 1 and version.dtype.kind in "iuf" and version.item() == 1:
        if name in attributes:
            yield (
                f"{owner} has an attribute {name}, which version 1 of the schema lacks: set "
                "schema_version to 2, counted of the root to 'bins' or 'above', and beam of "
                "geometry to 'cone', 'fan' or 'parallel'"
            )
    elif (got := " ".join(texts(attributes, name))) not in accepted:
        found = f"got {shown(got)!r}" if got else "and is missing"
        yield (
            f"the attribute {name} of {owner} must be {' or '.join(map(repr, accepted))}, {found}: "
            "set it"
        )


def root_faults(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Faults of the attributes of the file itself."""
    if texts(attributes, "schema") != (SCHEMA,):
        got = shown(" ".join(texts(attributes, "schema"))) or "nothing"
        yield (
            f"the root attribute schema must be {SCHEMA!r}, got {got!r}: set it, if this HDF5 file "
            "is meant to be a scan"
        )
    if not any(texts(attributes, "name")):
        yield "the root attribute name is missing: describe the scan in a few words"
    if "schema_version" not in attributes:
        yield f"the root attribute schema_version is missing: write {SCHEMA_VERSION}"
    yield from _number_faults("the root", attributes, _ROOT)


def parameter_faults(group: str, attributes: Mapping[str, Any]) -> Iterator[str]:
    """Attributes of a group that are unknown, missing, or not the numbers that they must be."""
    known = parameters(group, attributes)
    named = (*known, "beam") if group == "geometry" else tuple(known)
    for name in attributes:
        if name not in named and not name.isupper():  # CLASS, TITLE: of other programs
            close = difflib.get_close_matches(name, named, n=1)
            meant = f"did you mean {close[0]}?" if close else f"accepted: {', '.join(named)}"
            if group == "geometry" and (beams := _beams_with(name)):
                meant = f"only {beams} has it, so leave it out or correct beam"
                if name == "axis_offset_cm":
                    meant = f"only {beams} has it, so subtract it from offset_cm and leave it out"
            yield f"unknown attribute {shown(name)} of {group}: {meant}"
    yield from _number_faults(group, attributes, known)


def _beams_with(name: str) -> str:
    """The beams whose geometry has this attribute: "a 'cone' or 'fan' beam"; empty if none has."""
    beams = [beam for beam, kind in BEAMS.items() if name in parameters("geometry", {"beam": beam})]
    return f"a {' or '.join(map(repr, beams))} beam" if beams else ""


def _number_faults(
    owner: str, attributes: Mapping[str, Any], numbers: Mapping[str, Number]
) -> Iterator[str]:
    for name, number in numbers.items():
        if name in attributes:
            value = np.asarray(attributes[name])
            if not number.accepts(value):
                got = shown(repr(value.tolist()))
                yield f"the attribute {name} of {owner} must be {number}, got {got}: correct it"
        elif number.required:
            yield f"{owner} has no attribute {name}: add {number}"
