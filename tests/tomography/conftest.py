"""Matrices built by these tests stay out of the user's cache."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # its kernels then run on the CPU, slowly


@pytest.fixture(scope="session")
def matrix_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("matrices")


@pytest.fixture(autouse=True)
def _own_cache(matrix_folder, monkeypatch):
    monkeypatch.setenv("PCCTLEARN_CACHE", str(matrix_folder))
