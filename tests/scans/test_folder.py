"""Scan files of one scanner in a folder are the scans of a study."""

from dataclasses import replace

import pytest
import torch
from support.scan_files import recorded

from pcctlearn.scans.file import write_scan
from pcctlearn.scans.folder import ScanFiles, scan_files


@pytest.fixture
def folder(tmp_path):
    for name in ("b", "a"):
        write_scan(tmp_path / f"{name}.h5", replace(recorded(), name=name))
    return tmp_path


def test_files_in_a_folder_by_name(folder):
    scans = ScanFiles(folder)
    assert [path.name for path in scans.paths] == ["a.h5", "b.h5"]
    assert scans.geometry == recorded().geometry
    assert list(scans.model.materials) == ["water", "calcium"]
    torch.testing.assert_close(scans.model.thresholds(), recorded().thresholds_keV)
    assert len(ScanFiles(folder, limit=1).paths) == 1


def test_hidden_files_and_folders_are_not_scans(folder):
    for name in ("._a.h5", ".c.h5.host.1.1.part", ".c.h5.host.1.part.h5"):
        (folder / name).write_bytes(b"AppleDouble, or a temporary file of a killed process")
    (folder / "folder.h5").mkdir()
    assert [path.name for path in scan_files(folder)] == ["a.h5", "b.h5"]


def test_another_scanner_is_refused(folder):
    other = recorded()
    write_scan(folder / "c.h5", replace(other, thresholds_keV=other.thresholds_keV + 1))
    with pytest.raises(ValueError, match=r"c\.h5.* scanner"):
        ScanFiles(folder)


def test_a_missing_folder_or_response_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        ScanFiles(tmp_path / "elsewhere")
    write_scan(folder / "a.h5", replace(recorded(), response=None))
    with pytest.raises(ValueError, match=r"a\.h5.* response"):
        ScanFiles(folder)
