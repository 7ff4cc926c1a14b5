"""Check how an HDF5 file stores its datasets: within the file, readable, smaller than memory."""

import importlib
import mmap
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
from h5py import h5z

from pcctlearn.reading.sizes import usable_bytes

_MOST_LINKS = 8  # soft links to follow
_MOST_RATIO = 2000  # size of a dataset over its storage; gzip reaches 1032
_HEAP = b"GCOL\x01\x00\x00\x00"
_LARGE = 2**30  # bytes; smaller datasets may have any ratio


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file whose root group and string heaps can be read.

    Raises:
        OSError: it is not an HDF5 file, or it is damaged; h5py raises KeyError for some damage.
    """
    if path.stat().st_size and not _heaps_end(path):
        raise OSError("a heap of strings is damaged")  # HDF5 would read it in an endless loop
    with h5py.File(path, "r") as file:
        try:
            file.attrs.keys()  # of the root group
            yield file
        except KeyError as error:
            if "Unable to synchronously" not in str(error):  # an error of this project's own code
                raise
            raise OSError(str(error.args[0])) from error


def _heaps_end(path: Path) -> bool:
    """Whether the objects of every global heap collection end within the collection.

    A collection has a header of 16 bytes and objects, each with an index (2 bytes), a count (2),
    padding (4) and a size (8). HDF5 steps from one to the next by the size, and loops forever at
    free space (index 0) of size 0 (HDF5 File Format Specification 3.0, section III.E).
    """
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        start = content.find(_HEAP)
        while start >= 0:
            n_bytes = int.from_bytes(content[start + 8 : start + 16], "little")
            place, end = start + 16, min(start + n_bytes, len(content))
            while place + 16 <= end:
                index, size = struct.unpack_from("<H6xQ", content, place)
                if size > end - place or (index == 0 and size == 0):
                    return False
                if index == 0:
                    break
                place += 16 + (size + 7) // 8 * 8
            start = content.find(_HEAP, start + 8)
    return True


def items_in(file: h5py.File, names: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """{name: its group or dataset, or ``None``}, and a sentence for each link to another file.

    Every link is checked before it is followed, because an external link may name any file or
    device.
    """
    items = {name: _item_at(file, name) for name in names}
    foreign_links = [
        f"{name} is a link to another file, which is never opened: copy the data into this file, "
        "for example with h5repack after h5copy -f ext"
        for name, item in items.items()
        if isinstance(item, h5py.ExternalLink)
    ]
    return items, foreign_links


def _item_at(file: h5py.File, name: str, n_links: int = _MOST_LINKS) -> Any:
    """The object or external link of this name; ``None`` if missing or impossible to open."""
    item: Any = file
    parts = [part for part in name.split("/") if part not in ("", ".")]
    for index, part in enumerate(parts):
        if not isinstance(item, h5py.Group):
            return None
        link = item.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            return link
        if isinstance(link, h5py.SoftLink):
            base = "" if link.path.startswith("/") else item.name + "/"
            rest = "/".join([base + link.path, *parts[index + 1 :]])
            return _item_at(file, rest, n_links - 1) if n_links else None
        with suppress(KeyError, ValueError, OSError, RuntimeError):
            item = item[part]
            continue
        return None
    return item


def storage_faults(name: str, item: h5py.Dataset) -> Iterator[str]:
    """The reason not to read the values of a dataset, if there is one."""
    n_bytes = item.size * item.dtype.itemsize
    if item.is_virtual or item.external:
        kind = "a virtual dataset" if item.is_virtual else "stored in another file"
        yield f"{name} is {kind}, which is never opened: write the array itself into this file"
    elif n_bytes > usable_bytes():
        yield (
            f"{name} declares {n_bytes / 1e9:.4g} GB, shape {item.shape}, more than the free "
            "memory: store fewer views, or read it on a larger machine"
        )
    elif n_bytes and item.id.get_storage_size() == 0:
        yield f"{name} has the shape {item.shape}, but no values were written: write them"
    elif n_bytes > max(_LARGE, _MOST_RATIO * item.id.get_storage_size()):
        yield (
            f"{name} declares {n_bytes / 1e9:.4g} GB and stores "
            f"{item.id.get_storage_size() / 1e3:.4g} kB, far more than "
            "compression saves: write the array again"
        )
    else:
        yield from _filter_faults(name, item)


def _filter_faults(name: str, item: h5py.Dataset) -> Iterator[str]:
    created = item.id.get_create_plist()
    for index in range(created.get_nfilters()):
        code, _, _, label = created.get_filter(index)
        if not h5z.filter_avail(code):
            with suppress(ImportError):
                importlib.import_module("hdf5plugin")  # registers its filters
        if not h5z.filter_avail(code):
            title = label.decode(errors="replace").partition(";")[0] or "unnamed"
            yield (
                f"{name} is compressed with the HDF5 filter {title[:40]!r} (number {code}), which "
                "is not installed: pip install hdf5plugin, or rewrite the file where the filter "
                "is, h5repack -f GZIP=1 OLD NEW"
            )
