"""Errors of libraries on damaged files become one sentence; other errors pass unchanged."""

import csv
import gzip
import io
import json
import lzma
import pickle
import struct
import subprocess
import sys
import tokenize
import zipfile
import zlib

import h5py
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
import yaml
from scipy.io import loadmat

from pcctlearn.reading.damaged import library_errors, readable, reason_of

READERS = {
    "h5py": lambda path: list(h5py.File(path, "r")),
    "numpy": lambda path: np.load(path, allow_pickle=False),
    "scipy": loadmat,
    "zip": lambda path: zipfile.ZipFile(path).testzip(),
    "gzip": lambda path: gzip.decompress(path.read_bytes()),
    "lzma": lambda path: lzma.decompress(path.read_bytes()),
    "zlib": lambda path: zlib.decompress(path.read_bytes()),
    "nibabel": nib.load,
    "pydicom": lambda path: pydicom.dcmread(path).pixel_array,
    "torch": lambda path: torch.load(path, weights_only=True),
    "json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    "yaml": lambda path: yaml.safe_load(path.read_text(encoding="utf-8"))[3],
    "csv": lambda path: list(csv.reader(path.open(encoding="ascii"), strict=True)),
    "tokenize": lambda path: list(tokenize.tokenize(io.BytesIO(path.read_bytes()).readline)),
    "struct": lambda path: struct.unpack("<40q", path.read_bytes()[:7]),
}
GENERATOR = np.random.default_rng(1)
BYTES = {
    "empty": b"",
    "noise": GENERATOR.bytes(3000),
    "zip": b"PK\x03\x04" + GENERATOR.bytes(300),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(300),
    "npy": b"\x93NUMPY\x01\x00\x40\x00{'descr': '<f8', (" + bytes(90),
    "npy of 10^12 numbers": b"\x93NUMPY\x01\x00\x46\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}".ljust(69)
    + b"\n",
    "mat": b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + GENERATOR.bytes(400),
    "gzip": gzip.compress(bytes(3000))[:30],
    "NIfTI": (348).to_bytes(4, "little") + GENERATOR.bytes(348),
    "DICOM": bytes(128) + b"DICM" + GENERATOR.bytes(500),
    "pickle": pickle.dumps({"a": [1, 2]}),
    "quotes": b'"a\n' * 50 + b"\xff",
    "brackets": b"[" * 5000,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("content", BYTES)
@pytest.mark.parametrize("reader", READERS)
def test_every_library_on_every_kind_of_bytes(tmp_path, reader, content):
    """Either it reads the bytes, or its error is on the list and becomes one line."""
    path = tmp_path / "file"
    path.write_bytes(BYTES[content])
    try:
        with readable(path, "a scan", "write it again"):
            READERS[reader](path)
    except ValueError as error:
        text = str(error)
        assert text.startswith(str(path))
        assert text.endswith("): write it again")
        assert "\n" not in text


@pytest.mark.parametrize("reader", READERS)
def test_noise_is_refused_by_every_reader(tmp_path, reader):
    path = tmp_path / "file"
    path.write_bytes(BYTES["noise"] + b"\xff\xfe\x00")
    with (
        pytest.raises(ValueError, match=r"file .*a scan \(.+\): write it again"),
        readable(path, "a scan", "write it again"),
    ):
        READERS[reader](path)


def test_a_memory_error_is_named(tmp_path):
    with (
        pytest.raises(ValueError, match=r"memory.*7 TiB"),
        readable("a.npy", "an array", "write it again"),
    ):
        raise MemoryError("Unable to allocate 7 TiB")


@pytest.mark.parametrize("error", [NameError("x"), UnboundLocalError("y"), KeyboardInterrupt()])
def test_errors_of_this_package_pass(error):
    with pytest.raises(type(error)), readable("a", "b", "c"):
        raise error


def test_a_wrong_path_is_named(tmp_path):
    for path, kind in [(tmp_path, OSError), (tmp_path / "none", FileNotFoundError)]:
        with pytest.raises(kind) as raised, readable(path, "a scan", "write it again"):
            h5py.File(path, "r")
        assert str(path) in str(raised.value)
    with pytest.raises(FileNotFoundError) as raised, readable("none", "a scan", "x"):
        h5py.File(tmp_path / "none", "r")
    assert raised.value.filename == "none"


def test_reasons_are_short_and_never_advise_to_load_a_pickle():
    for error in (
        pickle.UnpicklingError("Weights only load failed: set weights_only=False"),
        ValueError("Object arrays cannot be loaded when allow_pickle=False"),
    ):
        assert "pickle" in reason_of(error)
        assert "=False" not in reason_of(error)
    assert reason_of(EOFError()) == "EOFError"
    assert "'energies_keV'" in reason_of(KeyError("energies_keV"))
    assert len(reason_of(ValueError("long " * 1000))) <= 160


def test_the_list_has_errors_of_loaded_libraries():
    assert {nib.filebasedimages.ImageFileError, pydicom.errors.InvalidDicomError} <= set(
        library_errors()
    )


def test_the_list_imports_no_library():
    heavy = "h5py, nibabel, numpy, pydicom, scipy, torch, yaml"
    code = (
        "import sys; from pcctlearn.reading.damaged import library_errors; library_errors(); "
        f"print(*set('{heavy}'.split(', ')) & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == ""
