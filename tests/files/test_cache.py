"""Projection matrices are stored on disk, checked when they are loaded, and rebuilt if needed."""

import pwd
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from support.truth import SMALL, SMALL_FAN

from pcctlearn.files import cache as matrix_cache
from pcctlearn.files.atomic import written_whole
from pcctlearn.files.cache import cache_folder
from pcctlearn.tomography.kernels import csr
from pcctlearn.tomography.slice_projector import SliceProjector


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "not yet there"
    monkeypatch.setenv("PCCTLEARN_CACHE", str(folder))
    return folder


def same(A, B):
    return all(torch.equal(a, b) for a, b in zip(A.buffers(), B.buffers(), strict=True))


def test_the_second_projector_is_loaded(folder, monkeypatch):
    first = SliceProjector(SMALL_FAN, SMALL)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(csr, "_build", None)
    assert same(first, SliceProjector(SMALL_FAN, SMALL))


def test_another_precision_is_another_matrix(folder):
    SliceProjector(SMALL_FAN, SMALL)
    torch.set_default_dtype(torch.float32)
    assert SliceProjector(SMALL_FAN, SMALL).matrix_weights.dtype == torch.float32
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "garbage", "empty", "pickled"])
def test_a_damaged_file_is_rebuilt(folder, damage):
    first = SliceProjector(SMALL_FAN, SMALL)
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    path.write_bytes(
        {
            "truncated": content[:middle],
            "flipped": content,
            "garbage": b"not a matrix",
            "empty": b"",
            "pickled": b"",
        }[damage]
    )
    if damage == "pickled":
        with path.open("wb") as file:
            np.savez(file, matrix_starts=np.array([{}], dtype=object))
    with pytest.warns(UserWarning, match="rebuilt"):
        assert same(first, SliceProjector(SMALL_FAN, SMALL))
    assert same(first, SliceProjector(SMALL_FAN, SMALL))


def rewritten(path, change):
    """Change the arrays of an entry, with a valid checksum, as an attacker would."""
    with np.load(path) as file:
        arrays = {name: file[name].copy() for name in file if name != "checksum"}
    change(arrays)
    path.unlink()
    matrix_cache._store(path, arrays)


def put(name, index, value):
    return lambda arrays: arrays[name].__setitem__(index, value)


@pytest.mark.parametrize(
    "change",
    [
        put("matrix_indices", 5, 2**31 - 1),
        put("matrix_indices", 5, -1),
        put("matrix_starts", 1, 2**30),
        put("matrix_starts", -1, 3),
        put("transposed_indices", 0, 10**6),
        put("transposed_starts", 0, -4),
        put("transposed_starts", 2, 0),
        put("matrix_weights", 7, np.nan),
        put("transposed_weights", 7, np.inf),
        lambda arrays: arrays.pop("matrix_weights"),
        lambda arrays: arrays.update(more=np.ones(3)),
        lambda arrays: arrays.update(matrix_weights=arrays["matrix_weights"][:-1]),
        lambda arrays: arrays.update(matrix_starts=arrays["matrix_starts"][:-1]),
        lambda arrays: arrays.update(matrix_indices=arrays["matrix_indices"].astype(np.int64)),
        lambda arrays: arrays.update(matrix_weights=arrays["matrix_weights"].astype(np.float32)),
        lambda arrays: arrays.clear(),
    ],
)
def test_arrays_that_would_be_read_out_of_bounds_are_rebuilt(folder, change):
    first = SliceProjector(SMALL_FAN, SMALL)
    (path,) = folder.iterdir()
    rewritten(path, change)
    with pytest.warns(UserWarning, match=f"{path.name}.* rebuilt"):
        assert same(first, SliceProjector(SMALL_FAN, SMALL))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(first, SliceProjector(SMALL_FAN, SMALL))


def test_a_changed_number_fails_the_checksum(folder):
    first = SliceProjector(SMALL_FAN, SMALL)
    (path,) = folder.iterdir()
    with np.load(path) as file:
        arrays = dict(file)
    arrays["matrix_weights"][3] += 0.5
    np.savez(path, **arrays)
    with pytest.warns(UserWarning, match=r"checksum.* rebuilt"):
        assert same(first, SliceProjector(SMALL_FAN, SMALL))


def test_temporary_files_of_killed_processes_are_removed(folder):
    """Those of running processes remain."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pcctlearn.files.atomic import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as part:\n"
        "    part.write_bytes(b'half')\n"
        "    print(part, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(folder / "a.npz")],
        capture_output=True,
        text=True,
        check=False,
    )
    left = Path(killed.stdout.strip())
    assert left.is_file()
    with written_whole(folder / "b.npz") as running:
        running.write_bytes(b"half")
        SliceProjector(SMALL_FAN, SMALL)
        assert not left.exists()
        assert running.exists()


def test_a_user_without_home_or_passwd_entry_has_no_cache(monkeypatch):
    def no_entry(uid):
        raise KeyError("uid not found")

    for name in ("PCCTLEARN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    assert cache_folder() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        A = SliceProjector(SMALL_FAN, SMALL)
    assert (A @ torch.ones(A.in_shape)).isfinite().all()


def test_a_folder_that_cannot_be_written_is_not_used(folder):
    folder.write_text("a file with the name of the folder")
    with pytest.warns(UserWarning, match=f"cache {folder.parent}.*not used"):
        A = SliceProjector(SMALL_FAN, SMALL)
    assert (A @ torch.ones(A.in_shape)).isfinite().all()


def test_the_folder_of_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("PCCTLEARN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "pcctlearn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "pcctlearn"
