"""Scan files with links, impossible sizes, missing filters or damage are refused."""

import struct

import h5py
import numpy as np
import pytest
from h5py import h5z
from support.scan_files import change, store

from pcctlearn.scans.file import faults, read_scan
from pcctlearn.scans.storage import opened

BITSHUFFLE = 32008


def only(path, *words):
    """The file has one fault, with all the words, and is not read."""
    (fault,) = faults(path)
    assert all(word in fault for word in words), fault
    with pytest.raises(ValueError, match=r"mine\.h5: "):
        read_scan(path)


def moved(path, other, name="counts"):
    with h5py.File(path, "r+") as file, h5py.File(other, "w") as target:
        file.copy(file[name], target, name="values")
        del file[name]
    return other


@pytest.mark.parametrize("name", ["counts", "air", "spectrum/fluence", "geometry/volume"])
def test_external_links_are_never_opened(copy, tmp_path, monkeypatch, name):
    other = moved(copy, tmp_path / "other.h5", name)
    change(copy, lambda file: file.__setitem__(name, h5py.ExternalLink(other, "values")))
    opened, open_file = [], h5py.h5f.open
    monkeypatch.setattr(h5py.h5f, "open", lambda *a, **k: opened.append(a[0]) or open_file(*a, **k))
    only(copy, name, "link")
    assert not any(b"other" in path for path in opened)


def test_soft_links_stay_in_the_file(copy, tmp_path):
    change(copy, lambda file: file.move("counts", "raw"))
    change(copy, lambda file: file.__setitem__("counts", h5py.SoftLink("/raw")))
    assert faults(copy) == []
    change(copy, lambda file: file.__setitem__("away", h5py.ExternalLink("x.h5", "/")))
    change(copy, lambda file: file.__delitem__("counts"))
    change(copy, lambda file: file.__setitem__("counts", h5py.SoftLink("/away/counts")))
    only(copy, "counts", "link")
    change(copy, lambda file: file.__delitem__("counts"))
    change(copy, lambda file: file.__setitem__("counts", h5py.SoftLink("/counts")))
    assert any("counts" in fault and "missing" in fault for fault in faults(copy))


def test_virtual_datasets_and_external_storage(copy, tmp_path):
    with h5py.File(copy) as file:
        shape = file["counts"].shape
    other = moved(copy, tmp_path / "other.h5")
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(other, "values", shape=shape)
    change(copy, lambda file: file.create_virtual_dataset("counts", layout).attrs.update(unit="1"))
    assert any("counts" in fault and "virtual" in fault for fault in faults(copy))
    change(copy, lambda file: file.__delitem__("counts"))
    raw = [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
    change(copy, lambda file: file.create_dataset("counts", shape, "f4", external=raw))
    assert any("counts" in fault and "another file" in fault for fault in faults(copy))


def declared(shape, **options):
    def spoil(file):
        attributes = dict(file["counts"].attrs)
        del file["counts"]
        dataset = file.create_dataset("counts", shape, "f4", **options)
        dataset.attrs.update(attributes)

    return spoil


@pytest.mark.parametrize(
    ("shape", "reason"), [((2, 10**12, 4, 5), "free memory"), ((2, 6, 4, 5), "no values")]
)
def test_declared_and_not_stored(copy, shape, reason):
    change(copy, declared(shape, chunks=(2, 1, 4, 5)))
    assert any(str(shape) in fault and reason in fault for fault in faults(copy))


def test_a_compression_bomb(copy):
    change(copy, declared((2, 2**26, 4, 5), chunks=(2, 2**10, 4, 5), compression="gzip"))
    change(copy, lambda file: file["counts"].__setitem__((0, 0, 0, 0), 1.0))
    assert any("counts" in fault and "compression" in fault for fault in faults(copy))


@pytest.mark.parametrize("name", ["n_views", "n_rows", "n_columns"])
def test_sizes_of_the_geometry_are_compared_before_it_is_built(copy, name):
    change(copy, lambda file: file["geometry"].attrs.__setitem__(name, 10**12))
    assert any(f"({name})" in fault and f"{10**12}" in fault for fault in faults(copy))


def test_a_volume_larger_than_memory(copy):
    change(copy, lambda file: file["geometry/volume"].attrs.update(n_z=10**6, n_y=10**6, n_x=10))
    only(copy, "geometry/volume", "1e+13 voxels", "n_z")
    change(copy, lambda file: file["geometry/volume"].attrs.update(n_z=3, n_y=4, n_x=5))
    assert faults(copy) == []


def filtered(file):
    """Counts in one chunk with the number of a filter that was not applied."""
    values, unit = file["counts"][()], file["counts"].attrs["unit"]
    del file["counts"]
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk(values.shape)
    created.set_filter(BITSHUFFLE, h5z.FLAG_OPTIONAL, (0, 2))
    space = h5py.h5s.create_simple(values.shape)
    dataset = h5py.h5d.create(file.id, b"counts", h5py.h5t.IEEE_F32LE, space, created)
    dataset.write_direct_chunk((0, 0, 0, 0), values.astype("f4").tobytes(), filter_mask=0)
    file["counts"].attrs["unit"] = unit


def test_a_filter_that_is_not_installed_is_named(copy):
    if h5z.filter_avail(BITSHUFFLE):
        pytest.skip("the filter is installed")
    change(copy, filtered)
    only(copy, "counts", "32008", "pip install hdf5plugin", "h5repack")


def test_the_remedy_for_a_missing_filter(copy):
    hdf5plugin = pytest.importorskip("hdf5plugin", reason="the remedy is to install it")
    with h5py.File(copy, "r+") as file:
        values, unit = file["counts"][()], file["counts"].attrs["unit"]
        del file["counts"]
        file.create_dataset("counts", data=values, **hdf5plugin.Bitshuffle()).attrs["unit"] = unit
    assert faults(copy) == []
    assert np.array_equal(read_scan(copy).at("counts"), values)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 6, 4, 5), [("n", "f4")]),
        np.zeros((2, 6, 4, 5), bool),
        np.zeros((2, 6, 4, 5), "S3"),
    ],
    ids=lambda values: str(values.dtype),
)
def test_data_types_other_than_numbers(copy, values):
    def spoil(file):
        del file["counts"]
        file.create_dataset("counts", data=values).attrs["unit"] = "photons"

    change(copy, spoil)
    only(copy, "counts", "numbers", "float32")


@pytest.mark.parametrize("kind", ["f2", "f8", ">f4", "longdouble", "u2", ">i8"])
def test_numbers_of_any_type(copy, kind):
    change(copy, lambda file: store(file, "counts", file["counts"][()].astype(kind)))
    assert faults(copy) == []
    assert read_scan(copy).at("counts").sum() > 0


def test_a_named_data_type_in_place_of_a_dataset(copy):
    change(copy, lambda file: file.__delitem__("air"))
    change(copy, lambda file: file.__setitem__("air", np.dtype("f4")))
    only(copy, "air", "dataset", "named data type")


def test_written_datasets_have_checksums(whole):
    with h5py.File(whole) as file:
        assert file["counts"].fletcher32
        assert file["air"].fletcher32


@pytest.mark.parametrize(
    ("index", "size"), [(0, 0), (0, 2**40), (0, 2**64 - 8), (7, 2**40), (7, 2**64 - 8)]
)
def test_an_endless_heap_of_strings_is_refused(copy, index, size):
    """HDF5 itself loops forever at free space of size 0, in C code that cannot be interrupted."""
    content = bytearray(copy.read_bytes())
    first = content.index(b"GCOL") + 16  # the first object: its index, count, gap and size
    content[first : first + 16] = struct.pack("<HHIQ", index, 0, 0, size)
    copy.write_bytes(content)
    only(copy, "heap of strings")


def test_a_damaged_root_is_refused(copy):
    content = copy.read_bytes()
    with h5py.File(copy) as file:
        place = h5py.h5o.get_info(file.id).addr
    copy.write_bytes(content[:place] + bytes(64) + content[place + 64 :])
    only(copy, "cannot be read")


@pytest.mark.parametrize("name", ["maps", "counts", "skew_cm", "response", "geometry/volume"])
def test_an_object_that_cannot_be_opened_is_refused(copy, name):
    content = copy.read_bytes()
    with h5py.File(copy) as file:
        place = h5py.h5o.get_info(file[name].id).addr
    copy.write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
    with pytest.raises(ValueError, match=r"mine\.h5: "):
        read_scan(copy)


def test_a_key_error_of_this_package_is_not_reported_as_damage(copy):
    with pytest.raises(KeyError, match="ours"), opened(copy):
        raise KeyError("ours")
