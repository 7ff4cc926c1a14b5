"""Scans of counters with dead times, corrected with those that a current series gives."""

import json
from dataclasses import replace

import h5py
import pytest
import torch
from evaluation.test_pixel_model import GEOMETRY, command

from pcctlearn.app.check import check_files
from pcctlearn.calibration.dead_time_file import read_dead_times, write_dead_times, write_series
from pcctlearn.calibration.dead_times import CurrentSeries
from pcctlearn.physics.pileup import registered_rate

DEAD_S, VIEW_S = 5e-9, 0.05
KEYS = [f"vmi60_error_HU.{what}" for what in ("mean", "rms")]


def series(thresholds_keV, n_rows=4, n_columns=24):
    """Expected counts in air at six currents."""
    current = torch.tensor([0.5, 1.0, 2.0, 4.0, 6.0, 8.0], dtype=torch.float64)
    shares = torch.linspace(1.0, 0.3, len(thresholds_keV), dtype=torch.float64)
    true = 5e5 * current[:, None, None, None] * shares.expand(n_rows, n_columns, -1)
    dead_s = torch.tensor(DEAD_S, dtype=torch.float64)
    counts = registered_rate(true, dead_s, torch.zeros(()).double()) * VIEW_S
    return CurrentSeries(current, counts, torch.full_like(current, VIEW_S), thresholds_keV)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A current series, its dead times, and a scan with them."""
    folder = tmp_path_factory.mktemp("workshop")
    times = [f"scan.pile_up.{name}=[{','.join([value] * 4)}]" for name, value in
             (("paralysable_s", str(DEAD_S)), ("nonparalysable_s", "0"))]  # fmt: skip
    quiet = ["scan=piled_up", "scan.scatter=null", "scan.grid_transmission=null", *times]
    command(folder / "scans", "simulate", "datasets.n_cases=1", *quiet, *GEOMETRY)
    with h5py.File(next((folder / "scans").glob("scans/*.h5"))) as file:
        thresholds = torch.from_numpy(file["thresholds_keV"][:-1])
    write_series(folder / "series.h5", series(thresholds), name="air")
    words = [f"counts={folder / 'series.h5'}", "calibration=dead_times"]
    command(folder / "calibrated", "calibrate", *words)
    return folder


def evaluated(workshop, folder, *words):
    command(folder, "evaluate", f"scans={workshop / 'scans'}", "scatter=none", *words)
    return json.loads((folder / "results.json").read_text())


def test_the_dead_times_are_found(workshop):
    found = read_dead_times(workshop / "calibrated/dead_times.h5")
    both = found.paralysable_s + found.nonparalysable_s
    torch.testing.assert_close(both, torch.full_like(both, DEAD_S), rtol=1e-3, atol=0)
    results = json.loads((workshop / "calibrated/results.json").read_text())
    assert results["dead_time_ns_15keV"] == pytest.approx(1e9 * DEAD_S, rel=1e-3)
    assert results["loss_percent_15keV"] == pytest.approx(1.98, abs=0.02)


def test_the_images_are_corrected(workshop, tmp_path):
    before = evaluated(workshop, tmp_path / "before")
    dead_times = workshop / "calibrated/dead_times.h5"
    after = evaluated(workshop, tmp_path / "after", f"dead_times={dead_times}")
    for material in ("water", "calcium"):
        key = f"projection_{material}_error_g_cm2"
        assert abs(after[f"{key}.mean"]) < abs(before[f"{key}.mean"]) / 3


def test_files_are_checked(workshop, capsys):
    files = workshop / "series.h5", workshop / "calibrated/dead_times.h5"
    assert check_files([str(path) for path in files]) == 0
    shown = capsys.readouterr().out
    assert "counts: current 6, threshold 4, row 4, column 24; photons" in shown
    assert "paralysable_s: threshold 4; s" in shown


def without_time(folder):
    for path in folder.glob("scans/*.h5"):
        with h5py.File(path, "r+") as file:
            del file.attrs["view_s"]


def test_a_scan_without_its_counting_time_is_refused(workshop, tmp_path):
    (tmp_path / "scans").mkdir()
    source = next((workshop / "scans").glob("scans/*.h5"))
    copy = tmp_path / "scans/scan.h5"
    copy.write_bytes(source.read_bytes())
    without_time(tmp_path)
    words = [f"scans={copy}", "scatter=none"]
    dead_times = f"dead_times={workshop / 'calibrated/dead_times.h5'}"
    with pytest.raises(ValueError, match=r"does not say how long a view counts.*give view_s=0.05"):
        command(tmp_path / "out", "evaluate", *words, dead_times)
    command(tmp_path / "out", "evaluate", *words, dead_times, f"view_s={VIEW_S}")


def test_pixels_beyond_the_greatest_rate_are_filled_and_named(workshop, tmp_path, caplog):
    source = next((workshop / "scans").glob("scans/*.h5"))
    copy = tmp_path / "scan.h5"
    copy.write_bytes(source.read_bytes())
    with h5py.File(copy, "r+") as file:
        file["counts"][:, 3, 1, 7] = 1.5e6
    words = [f"scans={copy}", "scatter=none"]
    dead_times = f"dead_times={workshop / 'calibrated/dead_times.h5'}"
    command(tmp_path / "out", "evaluate", *words, dead_times)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["dead_pixels"] == 1
    assert "beyond the greatest rate" in caplog.text


def test_pixels_without_dead_times_are_filled_and_named(workshop, tmp_path, caplog):
    shared = read_dead_times(workshop / "calibrated/dead_times.h5")
    names = ("paralysable_s", "nonparalysable_s", "covariance_s2", "misfit", "converged")
    values = {name: getattr(shared, name) for name in names}
    each = {name: value.expand(4, 24, *value.shape).clone() for name, value in values.items()}
    each["paralysable_s"][2, 5] = torch.nan
    write_dead_times(tmp_path / "each.h5", replace(shared, **each))
    results = evaluated(workshop, tmp_path / "out", f"dead_times={tmp_path / 'each.h5'}")
    assert results["dead_pixels"] == 1
    assert "1 without dead times: (2, 5)" in caplog.text
    assert "beyond the greatest rate" not in caplog.text


def test_dead_times_of_other_thresholds_are_refused(workshop, tmp_path):
    other = series(torch.tensor([20.0, 30.0, 40.0, 50.0]).double())
    write_series(tmp_path / "series.h5", other)
    words = [f"counts={tmp_path / 'series.h5'}", "calibration=dead_times"]
    command(tmp_path / "calibrated", "calibrate", *words)
    with pytest.raises(ValueError, match="measure the current series with the same thresholds"):
        evaluated(workshop, tmp_path / "out", f"dead_times={tmp_path / 'calibrated/dead_times.h5'}")


def test_a_series_in_the_wrong_order_is_refused(workshop, tmp_path):
    with h5py.File(workshop / "series.h5") as old, h5py.File(tmp_path / "series.h5", "w") as file:
        file.attrs.update(old.attrs)
        for name, item in old.items():
            old.copy(item, file, name)
        file["current_mA"][...] = old["current_mA"][()][::-1]
    words = [f"counts={tmp_path / 'series.h5'}", "calibration=dead_times"]
    with pytest.raises(ValueError, match="current_mA must increase, but 6 mA follows 8 mA"):
        command(tmp_path / "out", "calibrate", *words)
    assert not (tmp_path / "out").exists()


def test_the_counting_time_of_a_file_counts(workshop, tmp_path):
    dead_times = f"dead_times={workshop / 'calibrated/dead_times.h5'}"
    own = evaluated(workshop, tmp_path / "own", dead_times)
    other = evaluated(workshop, tmp_path / "other", dead_times, "view_s=0.5")
    key = "projection_water_error_g_cm2.mean"
    assert own[key] == other[key]


def test_dead_times_are_given_for_each_threshold(tmp_path):
    words = [
        "datasets.n_cases=1",
        "scan=piled_up",
        "scan.scatter=null",
        "scan.grid_transmission=null",
    ]
    with pytest.raises(ValueError, match=r"4 paralysable .* for 2 thresholds: give one of each"):
        command(tmp_path / "out", "simulate", *words, "physics/thresholds=two_bins", *GEOMETRY)


def test_heavy_losses_are_stored_with_their_truth(tmp_path):
    words = [
        "datasets.n_cases=1",
        "scan=piled_up",
        "scan.scatter=null",
        "scan.grid_transmission=null",
    ]
    heavy = "scan.pile_up.paralysable_s=[3e-8,3e-8,3e-8,3e-8]"
    command(tmp_path / "out", "simulate", *words, heavy, *GEOMETRY)
    with h5py.File(next((tmp_path / "out").glob("scans/*.h5"))) as file:
        assert file["counts"][()].sum() < 0.9 * file["primary"][()].sum()
