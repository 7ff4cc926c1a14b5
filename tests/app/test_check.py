"""``pcctlearn check`` knows scan, plate and pixel model files."""

from dataclasses import replace

import h5py
import pytest
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.app.check import check_files
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.pixel_model_file import write_pixel_model
from pcctlearn.calibration.plate_file import PlateRecord, write_plates
from pcctlearn.scans.record import ResponseRecord, SpectrumRecord


@pytest.fixture
def files(tmp_path):
    """A plate file and the pixel model made from it."""
    plates, model = plates_of(flawed(), 1e8, 3), cdte_scanner()
    response = model.response
    record = PlateRecord(
        "forty pixels",
        plates,
        SpectrumRecord(model.energies_keV, model.fluence),
        ResponseRecord(response.energies_keV, response.deposited_keV, response.response_per_keV),
    )
    write_plates(tmp_path / "plates.h5", record)
    found = replace(EtbCal().fit(plates, model), provenance={"plates": "plates.h5"})
    write_pixel_model(tmp_path / "model.h5", found)
    return tmp_path


def test_valid_files_are_described(files, capsys):
    assert check_files([str(files / "plates.h5"), str(files / "model.h5")]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": valid") == 2
    for words in ("forty pixels", "exposure 4: 20 mm aluminium", "gauge: absolute", "pixel 40"):
        assert words in printed


def test_faults_are_numbered(files, capsys):
    with h5py.File(files / "plates.h5", "r+") as file:
        del file["exposure"], file["thresholds_keV"]
        file.attrs["counted"] = "all"
    assert check_files([str(files / "plates.h5"), str(files / "model.h5")]) == 1
    printed = capsys.readouterr().out
    assert "2 fault(s)" in printed
    assert "1. the root attribute counted" in printed


def test_other_files_are_checked_as_scans(tmp_path, capsys):
    with h5py.File(tmp_path / "a.h5", "w"):
        pass
    assert check_files([str(tmp_path / "a.h5"), str(tmp_path / "no.h5")]) == 1
    printed = capsys.readouterr().out
    assert "pcctlearn scan" in printed
    assert "no such file" in printed
