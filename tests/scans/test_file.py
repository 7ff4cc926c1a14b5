"""Scan files are read as they were written, whole or not at all, and checked by a command."""

import re
import runpy
import sys
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.scan_files import (
    BEAM,
    ENERGIES,
    FAN,
    N_BINS,
    PARALLEL,
    change,
    drop,
    edit,
    label,
    one_row,
    recorded,
    small,
)

from pcctlearn.app.check import check_files
from pcctlearn.physics.response.table import Table
from pcctlearn.scans.file import faults, read_scan, summary, write_scan
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scans.schema import ARRAYS
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

PAGE = (Path(__file__).parents[2] / "docs/scan_file.md").read_text()


def equal(one, other):
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [recorded, small])
def test_round_trip_is_exact(tmp_path, make, default):
    scan, path = make(), tmp_path / "new folder" / "scan.h5"
    torch.set_default_dtype(default)
    write_scan(path, scan)
    again = read_scan(path)
    for name in {field.name for field in fields(ScanRecord)} - {"doubts"}:
        assert equal(getattr(again, name), getattr(scan, name)), name
    assert faults(path) == []
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "geometry",
    [
        FAN,
        PARALLEL,
        replace(PARALLEL, start_rad=0.3, arc_rad=2 * np.pi),
        replace(PARALLEL, view_angles_rad=(0.2, -0.3, 2.6, 1.1, 1.7, 2.2)),
    ],
)
def test_round_trip_of_one_row(tmp_path, geometry):
    scan, path = one_row(geometry), tmp_path / "scan.h5"
    write_scan(path, scan)
    again = read_scan(path)
    for name in {field.name for field in fields(ScanRecord)} - {"doubts"}:
        assert equal(getattr(again, name), getattr(scan, name)), name
    change(path, drop("geometry/volume"))
    assert read_scan(path).grid == geometry.default_grid()
    assert all(line in summary(path) for line in str(geometry).splitlines())


def of_version_1(file):
    """What a file of version 1 lacks."""
    file.attrs["schema_version"] = 1
    del file.attrs["counted"]
    del file["geometry"].attrs["beam"]


def test_a_file_of_version_1_is_a_cone_beam_with_counts_in_bins(copy):
    expected = read_scan(copy)
    change(copy, of_version_1)
    assert faults(copy) == []
    again = read_scan(copy)
    assert again.geometry == BEAM
    assert torch.equal(again.at("counts"), expected.at("counts"))


@pytest.mark.parametrize(
    ("owner", "attribute"), [("/", {"counted": "above"}), ("geometry", {"beam": "fan"})]
)
def test_a_file_of_version_1_has_no_attribute_of_version_2(copy, owner, attribute):
    change(copy, of_version_1)
    change(copy, label(owner, **attribute))
    assert any(
        next(iter(attribute)) in fault and "schema_version to 2" in fault for fault in faults(copy)
    )


def test_an_unknown_beam_is_the_only_fault(copy):
    change(copy, label("geometry", beam="helix"))
    assert len(faults(copy)) == 1
    assert "helix" in faults(copy)[0]


@pytest.mark.parametrize("pixel_cm", [0.6, (0.55, 0.6)])
def test_round_trip_of_equally_spaced_views(tmp_path, pixel_cm):
    even = ConeBeam(6, 4, 5, pixel_cm, 5.0, 8.0, 1.7 * np.pi)
    edges = recorded().thresholds_keV.expand(4, 5, -1)
    write_scan(
        tmp_path / "scan.h5",
        replace(small(), geometry=even, grid=VolumeGrid(3, 4, 5, 0.3), thresholds_keV=edges),
    )
    again = read_scan(tmp_path / "scan.h5")
    assert again.geometry == even
    assert torch.equal(again.thresholds_keV, edges)


def test_only_the_named_arrays_are_read(whole):
    scan = read_scan(whole, only={"maps", "spectrum"})
    assert scan.counts is scan.scatter is scan.response is None
    assert torch.equal(scan.at("maps"), recorded().at("maps"))
    assert scan.spectrum is not None
    assert scan.materials == recorded().materials
    with pytest.raises(ValueError, match=f"{scan.name}.* counts"):
        scan.at("counts")
    with pytest.raises(ValueError, match=r"'map'.* maps"):
        read_scan(whole, only={"map"})


def test_values_are_only_checked_in_arrays_that_are_read(copy):
    change(copy, edit("scatter", (1, 4, 2, 3), np.nan))
    assert read_scan(copy, only={"counts"}).counts is not None
    with pytest.raises(ValueError, match=r"scatter: 1 .*NaN"):
        read_scan(copy, only={"counts", "scatter"})


@pytest.mark.parametrize("make", [recorded, small])
def test_the_spectral_model(make):
    scan = make()
    model = scan.spectral_model(["water", "iodine"])
    if scan.spectrum is None:
        assert model is None
        return
    table, fluence = Table(*scan.response), scan.spectrum.fluence
    above = (table.above(scan.thresholds_keV, ENERGIES) * fluence).sum(-1)
    torch.testing.assert_close(model.air(), above[:-1] - above[1:])
    assert model.materials == ["water", "iodine"]
    assert scan.spectral_model().materials == list(scan.materials)
    true = scan.spectral_model(edges_keV=scan.true_thresholds_keV)
    assert true.air().shape == (4, 5, N_BINS)
    with pytest.raises(ValueError, match="materials"):
        replace(scan, materials=()).spectral_model()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"counts": None}, r"scan\.h5.* counts .*missing"),
        ({"materials": ()}, r"materials of line_integrals .*3.*\[\].*\(1 more\)"),
        ({"air": -recorded().air}, "air: 40 .*bin 0, row 0, column 0"),
        ({"name": ""}, "name .*missing"),
    ],
)
def test_a_wrong_scan_is_not_written(tmp_path, wrong, words):
    with pytest.raises(ValueError, match=words):
        write_scan(tmp_path / "scan.h5", replace(recorded(), **wrong))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, error):
    create = h5py.Group.create_dataset

    def interrupted(group, name, **options):
        if name == "scatter":
            raise error("stop")
        return create(group, name, **options)

    monkeypatch.setattr(h5py.Group, "create_dataset", interrupted)
    with pytest.raises(error, match="stop"):
        write_scan(tmp_path / "scan.h5", recorded())
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_grid_has_the_default_grid_of_its_geometry(copy):
    change(copy, drop("geometry/volume"))
    scan = read_scan(copy)
    assert scan.grid == BEAM.default_grid()
    assert scan.maps_grid == recorded().maps_grid


def test_counts_are_compressed_view_by_view(whole):
    with h5py.File(whole) as file:
        assert file["counts"].chunks == (N_BINS, 1, 4, 5)
        assert file["counts"].compression == "gzip"


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["pcctlearn", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("pcctlearn", run_name="__main__", alter_sys=True)
    return left.value.code


def test_the_command_of_a_valid_file(whole, monkeypatch, capsys):
    assert command(monkeypatch, whole) == 0
    said = capsys.readouterr().out
    assert f"{whole}: valid" in said
    assert "counts: bin 2, view 6, row 4, column 5; photons" in said
    assert "thresholds: 20, 55, 120 keV" in said
    scan = recorded()
    assert f"photons: {scan.at('scatter').sum() / scan.at('primary').sum():.4g}\n" in said
    assert f"exposure: {scan.air.sum(0).mean():.4g} photons" in said
    assert all(line in said for line in str(BEAM).splitlines())
    assert "warning: truncated" in said


def test_the_command_of_a_wrong_file(whole, copy, monkeypatch, capsys):
    change(copy, edit("primary", (1, 4, 2, 3), np.nan))
    change(copy, label("skew_cm", unit="mm"))
    assert command(monkeypatch, copy, whole) == 1
    said = capsys.readouterr().out
    assert re.search(r"mine.h5: 2 fault\(s\)\n  1\. primary: 1 of .*\n  2\. unit of skew_cm", said)
    assert f"{whole}: valid" in said


def test_the_command_without_a_file(monkeypatch, capsys):
    assert command(monkeypatch) == 2
    assert "usage: pcctlearn check" in capsys.readouterr().err


def test_the_page_lists_every_dataset():
    for name, array in ARRAYS.items():
        axes = array.axes.replace(" |", ", or")
        signed = "" if "negative" in array.refused else " †"
        assert f"| `{name}`{signed} | {axes} | {array.unit} |" in PAGE, name
        assert array.required == (f"{array.unit} | needed" in line_of(name)), name


def line_of(name):
    return next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))


def test_the_examples_of_the_page_write_and_read_a_valid_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write, read = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "pcctlearn." not in write, "scan files can be written without this package"
    exec(write, {})
    assert check_files(["my_scan.h5"]) == 0
    names: dict = {}
    exec(read, names)
    assert names["rays"].shape == (36, 8, 16, 2)
    assert "36 views over 360°" in capsys.readouterr().out


def test_a_folder_is_not_a_missing_file(tmp_path):
    (fault,) = faults(tmp_path)
    assert "folder" in fault
    assert "*.h5" in fault


def test_the_exposure_is_that_of_the_living_pixels(copy):
    before = summary(copy)
    change(copy, edit("air", (slice(None), 1, 2), np.nan))
    assert "exposure: nan" not in summary(copy)
    assert re.search(r"exposure: \d", before)
