"""Pixel model files: written and read back equal, and every fault named with its remedy."""

from dataclasses import replace

import h5py
import pytest
import torch
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.app.check import check_files
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.pixel_model_file import (
    pixel_model_faults,
    read_pixel_model,
    write_pixel_model,
)


@pytest.fixture
def pixels():
    """A calibrated detector with a dead pixel."""
    plates = plates_of(flawed(), 1e8, seed=3)
    plates.counts[:, 5] = 0
    found = EtbCal().fit(plates, cdte_scanner())
    return replace(found, provenance={"plates": "a.h5", "software": "pcctlearn"})


def test_what_is_written_is_read(tmp_path, pixels):
    write_pixel_model(tmp_path / "model.h5", pixels)
    found = read_pixel_model(tmp_path / "model.h5")
    for name in ("gain", "thickness_cm", "thresholds_keV", "nominal_keV"):
        assert torch.equal(getattr(found, name), getattr(pixels, name))
    for name in ("gain_covariance", "threshold_sd_keV"):
        stored, kept = getattr(found, name), getattr(pixels, name)
        torch.testing.assert_close(stored, kept, rtol=0, atol=0, equal_nan=True)
    assert found.flags.keys() == pixels.flags.keys()
    assert torch.equal(found.calibrated, pixels.calibrated)
    assert not found.calibrated[5]
    assert (found.gauge, found.materials) == ("absolute", ("CdTe",))
    assert found.provenance == pixels.provenance
    assert found.warnings == ()


def test_warnings_are_kept_and_printed(tmp_path, pixels, capsys):
    path, said = tmp_path / "model.h5", ("counts above 60 keV differ by 0.3 %", "σ² is 4 times n")
    write_pixel_model(path, replace(pixels, warnings=said))
    assert read_pixel_model(path).warnings == said
    assert check_files([str(path)]) == 0
    printed = capsys.readouterr().out
    assert all(f"warning: {sentence}\n" in printed for sentence in said)


def test_warnings_must_be_texts(tmp_path, pixels):
    path = tmp_path / "model.h5"
    write_pixel_model(path, pixels)
    with h5py.File(path, "r+") as stored:
        stored.attrs["warnings"] = [1.0, 2.0]
    assert any("warnings" in fault for fault in pixel_model_faults(path))
    with h5py.File(path, "r+") as stored:
        del stored.attrs["warnings"]
    assert pixel_model_faults(path) == []


def test_the_correction_of_a_file_is_that_of_its_model(tmp_path, pixels):
    write_pixel_model(tmp_path / "model.h5", pixels)
    p = 3 * torch.rand(2, 40, 2)
    one, other = (
        each.correction(cdte_scanner())(p)
        for each in (pixels, read_pixel_model(tmp_path / "model.h5"))
    )
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("gain", lambda v: 0 * v, "gain"),
        ("gain", lambda v: v * float("nan"), "NaN"),
        ("thresholds_keV", lambda v: v[:, ::-1], "increase"),
        ("thresholds_keV", lambda v: 1000 * v, "eV"),
        ("threshold_sd_keV", lambda v: v - 1, "negative"),
    ],
)
def test_each_fault_is_named(tmp_path, pixels, name, change, named):
    path = tmp_path / "model.h5"
    write_pixel_model(path, pixels)
    with h5py.File(path, "r+") as stored:
        stored[name][...] = change(stored[name][()])
    assert any(named in fault for fault in pixel_model_faults(path))
    with pytest.raises(ValueError, match=r"model\.h5"):
        read_pixel_model(path)


def test_a_covariance_of_other_unknowns_is_refused(tmp_path, pixels):
    wrong = replace(pixels, gain_covariance=torch.zeros(40, 3, 3))
    with pytest.raises(ValueError, match="gain_skew_covariance"):
        write_pixel_model(tmp_path / "model.h5", wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_scan_is_not_a_pixel_model(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.attrs.update(schema="pcctlearn scan", schema_version=1)
    with pytest.raises(ValueError, match=r"docs/pixel_model_file\.md"):
        read_pixel_model(tmp_path / "scan.h5")
