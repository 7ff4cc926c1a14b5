"""Matrices built by these tests stay out of the user's cache."""

import pytest


@pytest.fixture(scope="session")
def matrix_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("matrices")


@pytest.fixture(autouse=True)
def _own_cache(matrix_folder, monkeypatch):
    monkeypatch.setenv("PCCTLEARN_CACHE", str(matrix_folder))
