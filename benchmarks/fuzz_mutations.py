"""Seeded damage to files: to bytes, to header fields, and by the library of each format."""

import gzip
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pydicom
import torch
from scipy.io import loadmat, savemat

EXTREME_NUMBERS = (
    *(float("nan"), float("inf"), float("-inf"), 1e300, -1e300, 1e-320, 1e12, -1.0, 0.0),
    *(2**31 - 1, 2**31, 2**63 - 1, -(2**63), 10**9, 65535),
)
EXTREMES: tuple[Any, ...] = (
    *EXTREME_NUMBERS,
    *("", "nan", "x" * 10_000, "\x00", "10^400", "µ", [], [1.0] * 1000, None, True, b"\xff\xfe"),
)
_PACKED = [
    struct.pack(form, value)
    for form, values in (
        ("<i", (0, -1, 2**31 - 1, -(2**31))),
        ("<q", (0, -1, 2**63 - 1, 10**12)),
        ("<f", (float("nan"), float("inf"), 3e38, -1.0)),
        ("<d", (float("nan"), float("inf"), 1e300, -1.0)),
        (">h", (0, -1, 2**15 - 1)),
    )
    for value in values
]
Generator = np.random.Generator


def of_bytes(path: Path, generator: Generator) -> None:
    """Flip bits, truncate, remove, repeat, zero or insert a block, or write an extreme number."""
    content = bytearray(path.read_bytes())
    size = len(content)
    start = int(generator.integers(size))
    if generator.random() < 0.4:
        start = int(generator.integers(min(size, 400)))  # headers come first
    end = min(size, start + int(2 ** generator.uniform(0, 12)))
    kind = generator.choice(["bits", "cut", "out", "repeat", "zero", "ones", "insert", "number"])
    if kind == "bits":
        for place in generator.integers(start, max(end, start + 1), generator.integers(1, 33)):
            content[place] ^= 1 << int(generator.integers(8))
    elif kind == "cut":
        del content[start:]
    elif kind == "out":
        del content[start:end]
    elif kind == "repeat":
        content[start:start] = content[start:end] * int(generator.integers(1, 20))
    elif kind in ("zero", "ones"):
        content[start:end] = (b"\x00" if kind == "zero" else b"\xff") * (end - start)
    elif kind == "insert":
        content[start:start] = generator.bytes(end - start)
    else:
        number = _PACKED[int(generator.integers(len(_PACKED)))]
        content[start : start + len(number)] = number
    path.write_bytes(content)


def of_text(path: Path, generator: Generator) -> None:
    """Replace words, signs or indents by others, repeat the text, or insert an alias bomb."""
    words = re.split(r"([,;:\s\[\]]+)", path.read_text(encoding="utf-8"))
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 10)
    )
    replacements = [
        *("nan", "inf", "-1", "1e300", "1e-400", "x", "", "µ", "9" * 400, "1_0", "0x1F", "1,5"),
        *("[" * 2000, "{a: ", "&a *a", "!!python/name:os.system", "---\n", "\t", "\x00", bomb),
    ]
    for _ in range(int(generator.integers(1, 6))):
        place = int(generator.integers(len(words)))
        words[place] = replacements[int(generator.integers(len(replacements)))]
    if generator.random() < 0.1:
        words = words * 50
    path.write_text("".join(words), encoding="utf-8")


def of_hdf5(path: Path, generator: Generator) -> None:
    """Change kinds, shapes and values of datasets and attributes, or link to other files."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = str(generator.choice(names))
        item, value = file[name], _any(generator, EXTREMES)
        kind = generator.choice(["attribute", "value", "replace", "huge", "type", "link", "drop"])
        if kind == "attribute":
            holder = file if generator.random() < 0.3 else item
            keys = [*holder.attrs, "extra"]
            holder.attrs[str(generator.choice(keys))] = _stored(value)
        elif kind == "value" and isinstance(item, h5py.Dataset):
            values = item[()]
            with np.errstate(all="ignore"):
                values.flat[int(generator.integers(values.size))] = np.asarray(
                    float(_any(generator, EXTREME_NUMBERS))
                ).astype(values.dtype)
            item[...] = values
        else:
            attributes = dict(item.attrs)
            del file[name]
            made = _instead(file, name, kind, value, generator)
            if made is not None:
                made.attrs.update(attributes)


def _instead(
    file: h5py.File, name: str, kind: str, value: Any, generator: Generator
) -> h5py.Dataset | None:
    if kind == "huge":  # declared without storing data
        n_axes = int(generator.integers(1, 5))
        shape = tuple(int(10 ** generator.uniform(0, 6)) for _ in range(n_axes))
        return file.create_dataset(name, shape, "f4", chunks=(1,) * n_axes)
    if kind == "type":
        dtype = str(generator.choice(["S5", "c16", "i1", "?", "f2", "u8"]))
        shape = tuple(int(n) for n in generator.integers(0, 5, generator.integers(0, 6)))
        return file.create_dataset(name, shape, dtype)
    if kind == "link":
        links: list[Any] = [
            h5py.ExternalLink("/etc/hostname", "/"),
            h5py.ExternalLink("nowhere.h5", "/counts"),
            h5py.SoftLink(f"/{name}"),
            h5py.SoftLink("/nowhere"),
        ]
        file[name] = links[int(generator.integers(len(links)))]
    elif kind == "replace":
        return file.create_dataset(name, data=_stored(value))
    return None


def _stored(value: Any) -> Any:
    """The value in a form that HDF5 accepts."""
    if value is None or (isinstance(value, list) and not value):
        return h5py.Empty("f4")
    if isinstance(value, str) and "\x00" in value:
        return np.bytes_(value.encode())
    return np.uint64(value) if isinstance(value, int) and value >= 2**63 else value


def of_nifti(path: Path, generator: Generator) -> None:
    """Write extreme numbers into header fields."""
    image = nib.Nifti1Image.from_filename(path)
    header = image.header.structarr.copy()
    field = str(generator.choice(list(header.dtype.names)))
    with np.errstate(all="ignore"):
        number = np.asarray(float(_any(generator, EXTREME_NUMBERS)))
        if header.dtype[field].base.kind in "iuf":
            values = np.atleast_1d(header[field]).copy()
            values[int(generator.integers(values.size))] = number.astype(values.dtype)
            header[field] = values.reshape(header[field].shape)
        elif field == "magic":
            header[field] = b"n+2"
    data = np.asarray(image.dataobj).tobytes(order="F")
    content = header.tobytes().ljust(352, b"\x00") + data
    if path.suffix == ".gz":
        content = gzip.compress(content, 1)
    path.write_bytes(content)


def of_dicom(path: Path, generator: Generator) -> None:
    """Change or remove an element of a slice."""
    dataset = pydicom.dcmread(path)
    element = list(dataset)[int(generator.integers(len(dataset)))]
    value = _any(generator, EXTREMES)
    try:
        if generator.random() < 0.2:
            del dataset[element.tag]
        else:
            dataset[element.tag].value = value
        dataset.save_as(path)
    except Exception:  # pydicom does not write it: damage bytes instead
        of_bytes(path, generator)


def of_arrays(path: Path, generator: Generator) -> None:
    """Change shape, kind or value of an array, remove it, or falsify its header."""
    content = loadmat(path) if path.suffix == ".mat" else dict(np.load(path))
    arrays = {name: values for name, values in content.items() if name[0] != "_"}
    name = str(generator.choice(list(arrays)))
    kind = generator.choice(["value", "shape", "type", "drop", "header", "nested"])
    values = np.array(arrays[name])
    if kind == "value":
        with np.errstate(all="ignore"):
            number = np.asarray(float(_any(generator, EXTREME_NUMBERS))).astype(values.dtype)
        values.flat[int(generator.integers(max(values.size, 1)))] = number
        arrays[name] = values
    elif kind == "shape":
        n_axes = int(generator.integers(0, 4))
        arrays[name] = np.ones([int(n) for n in generator.integers(0, 400, n_axes)])
    elif kind == "type":
        arrays[name] = values.astype(str(generator.choice(["c16", "U8", "?", "i1", "f2", "S3"])))
    elif kind == "nested" and path.suffix == ".mat":
        nested: Any = 0.0
        for _ in range(int(generator.integers(1, 60))):
            nested = {"x": nested}
        arrays[name] = nested
    else:
        del arrays[name]
    if path.suffix == ".mat":
        savemat(path, arrays, do_compression=bool(generator.random() < 0.5))
    else:
        np.savez(path, **arrays)
        if kind == "header":
            _add_false_header(path, name, generator)


def _add_false_header(path: Path, name: str, generator: Generator) -> None:
    """Add a member whose header declares more data than it has, or a bomb of compressed zeros."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        if generator.random() < 0.3:
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "<f8", "fortran_order": False, "shape": (2**24,)}
                )
                for _ in range(8):
                    member.write(bytes(2**24))
            return
        shape = tuple(int(10 ** generator.uniform(0, 12)) for _ in range(2))
        with archive.open(f"{name}.npy", "w") as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f8", "fortran_order": False, "shape": shape}
            )
            member.write(bytes(4000))


def of_checkpoint(path: Path, generator: Generator) -> None:
    """Change value, kind or shape of a fact, a setting or a weight."""
    content = torch.load(path, weights_only=True)
    facts, state = content["correction"], content["state_dict"]
    value = _any(generator, EXTREMES)
    kind = generator.choice(["fact", "setting", "geometry", "weight", "shape", "bins", "drop"])
    name = str(generator.choice(list(state)))
    if kind == "fact":
        facts[str(generator.choice(list(facts)))] = value
    elif kind == "setting":
        facts["spec"][str(generator.choice([*facts["spec"], "n_layers"]))] = value
    elif kind == "geometry":
        facts["geometry"][str(generator.choice(list(facts["geometry"])))] = value
    elif kind == "bins":
        facts["bins_keV"][0] = value
    elif kind == "weight":
        with np.errstate(all="ignore"):
            number = float(np.float32(_any(generator, EXTREME_NUMBERS)))
        state[name] = torch.full_like(state[name].float(), number)
    elif kind == "shape":
        state[name] = torch.zeros(1).expand(*(int(n) for n in generator.integers(1, 10**5, 3)))
    else:
        del state[name]
    torch.save(content, path)


def _any(generator: Generator, choices: tuple[Any, ...]) -> Any:
    return choices[int(generator.integers(len(choices)))]


EDITS: dict[str, Callable[[Path, Generator], None]] = {
    ".h5": of_hdf5,
    ".nii": of_nifti,
    ".gz": of_nifti,
    ".dcm": of_dicom,
    ".npz": of_arrays,
    ".mat": of_arrays,
    ".csv": of_text,
    ".yaml": of_text,
    ".ckpt": of_checkpoint,
}
