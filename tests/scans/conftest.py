"""Scan files for the tests of this room."""

import pytest
from support.scan_files import recorded

from pcctlearn.scans.file import write_scan


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("scans") / "whole.h5"
    write_scan(path, recorded())
    return path


@pytest.fixture
def copy(whole, tmp_path):
    path = tmp_path / "mine.h5"
    path.write_bytes(whole.read_bytes())
    return path
