"""Matrices are built once, and nothing depends on the disk."""

import numpy as np
import pytest
import torch
from truth import SMALL_FAN

from pcctlearn.tomography import csr
from pcctlearn.tomography.matrix_cache import cache_folder
from pcctlearn.tomography.sparse_projector import Projector


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "not yet there"
    monkeypatch.setenv("PCCTLEARN_CACHE", str(folder))
    return folder


def same(A, B):
    return all(torch.equal(a, b) for a, b in zip(A.buffers(), B.buffers(), strict=True))


def test_the_second_projector_is_loaded(folder, monkeypatch):
    first = Projector(SMALL_FAN)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(csr, "_build", None)
    assert same(first, Projector(SMALL_FAN))


def test_another_precision_is_another_matrix(folder):
    Projector(SMALL_FAN)
    torch.set_default_dtype(torch.float32)
    assert Projector(SMALL_FAN).matrix_weights.dtype == torch.float32
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "garbage", "empty", "pickled"])
def test_a_damaged_file_is_rebuilt(folder, damage):
    first = Projector(SMALL_FAN)
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
    with pytest.warns(UserWarning, match="will be rebuilt"):
        assert same(first, Projector(SMALL_FAN))
    assert same(first, Projector(SMALL_FAN))


def test_a_folder_that_cannot_be_written_is_done_without(folder):
    folder.write_text("a file is in the way")
    with pytest.warns(UserWarning, match="is not kept in"):
        A = Projector(SMALL_FAN)
    assert (A @ torch.ones(A.in_shape)).isfinite().all()


def test_where_matrices_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("PCCTLEARN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "pcctlearn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "pcctlearn"
