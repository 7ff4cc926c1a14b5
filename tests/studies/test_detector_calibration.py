"""calibrate.py: plates or the scan of a phantom become a pixel model and a report."""

import json
import shutil
from functools import wraps

import h5py
import numpy as np
import pytest
import torch
from support.configs import composed

from pcctlearn.app.run import run
from pcctlearn.calibration.dead_time_file import write_dead_times
from pcctlearn.calibration.dead_times import DeadTimes
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.pixel_model_file import read_pixel_model
from pcctlearn.calibration.plate_file import read_plates
from pcctlearn.physics.pileup import registered_rate
from pcctlearn.scans.file import read_scan

SMALL = ["datasets.n_rows=4", "datasets.n_columns=12", "n_threads=1"]


def plates(folder, *overrides):
    run(
        composed(folder, "datasets=plates", f"folder={folder}", *SMALL, *overrides, name="simulate")
    )
    return folder / "plates.h5"


def calibrated(folder, path, *overrides):
    words = [f"counts={path}", f"folder={folder}", "n_threads=1", *overrides]
    run(composed(folder, *words, name="calibrate"))
    return json.loads((folder / "results.json").read_text())


def test_plates_become_a_pixel_model(tmp_path):
    path = plates(tmp_path / "plates", "datasets.exposure_error=0.05", "datasets.dead_share=0.2")
    results = calibrated(tmp_path / "out", path)
    found, record = read_pixel_model(tmp_path / "out/pixel_model.h5"), read_plates(path)
    good = found.calibrated
    n_dead = int((record.plates.counts == 0).all(-1).all(0).sum())
    assert n_dead > 0
    assert int((~good).sum()) == n_dead
    error = (found.thresholds_keV - record.true_thresholds_keV)[good]
    assert error.abs().max() < 0.05
    assert found.provenance["plates"] == "plates.h5"
    assert results["n_pixels"] == 48
    assert results["threshold_error_rms_keV"] == pytest.approx(error[:, 1].square().mean().sqrt())
    for keV in (40, 60):
        before, after = (results[f"slab_{when}_sd_{keV}keV"] for when in ("before", "after"))
        assert after < before / 10
    assert (tmp_path / "out/report.html").is_file()
    for figure in ("pixels", "residuals", "slab"):
        assert (tmp_path / f"out/figures/{figure}.png").is_file()


def test_a_fit_that_fails_leaves_no_folder(tmp_path):
    path = plates(tmp_path / "plates")
    with h5py.File(path, "r+") as file:
        del file["exposure"]
    with pytest.raises(ValueError, match="exposure of each plate"):
        calibrated(tmp_path / "out", path)
    assert not (tmp_path / "out").exists()


def test_the_report_shows_an_error_that_all_pixels_share(tmp_path):
    path = plates(tmp_path / "plates")
    medians = []
    for error in (1.0, 1.01):
        with h5py.File(path, "r+") as file:
            file["exposure"][0] = error
        calibrated(tmp_path / f"{error:g}", path)
        with h5py.File(tmp_path / f"{error:g}/arrays.h5") as file:
            medians.append(abs(file["residuals/common"][()]).max())
    assert medians[0] < 3e-4
    assert medians[1] > 2e-3


def test_warnings_of_the_fit_stand_in_the_report_and_in_the_pixel_model(tmp_path, caplog):
    """Once, and not those of the simulated second measurement."""
    path = plates(tmp_path / "plates")
    with h5py.File(path, "r+") as file:
        file["exposure"][1] = 1.004
    calibrated(tmp_path / "out", path)
    (said,) = [m for m in caplog.messages if "check the exposures" in m]
    assert read_pixel_model(tmp_path / "out/pixel_model.h5").warnings == (said,)
    assert (tmp_path / "out/report.html").read_text().count("check the exposures") == 1


def test_a_failure_of_the_simulated_measurement_is_named_as_such(tmp_path, monkeypatch):
    path = plates(tmp_path / "plates")
    fit, calls = EtbCal.fit, []

    @wraps(fit)
    def failing(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise ValueError("too few photons")
        return fit(*arguments)

    monkeypatch.setattr(EtbCal, "fit", failing)
    results = calibrated(tmp_path / "out", path)
    assert "slab_after_sd_60keV" not in results
    assert read_pixel_model(tmp_path / "out/pixel_model.h5").calibrated.all()
    report = (tmp_path / "out/report.html").read_text()
    assert "simulated measurement of its pixels cannot be calibrated (too few photons)" in report


@pytest.mark.parametrize(("photons", "better"), [("1e8", True), ("3e3", False)])
def test_a_calibration_that_adds_more_noise_than_it_removes_is_named(
    tmp_path, photons, better, caplog
):
    path = plates(tmp_path / "plates", f"datasets.photons={photons}")
    calibrated(tmp_path / "out", path)
    said = [m for m in caplog.messages if "no better than a flat field" in m]
    assert bool(said) != better
    report = (tmp_path / "out/report.html").read_text()
    assert report.count("no better than a flat field") == len(said)


SMALLEST = {
    "one pixel": (["datasets.n_rows=1", "datasets.n_columns=2"], "bias_mean_keV.60keV"),
    "one threshold": (["physics.thresholds.edges_keV=[40.0,149.0]"], "slab_after_sd_40keV"),
    "two pixels": (["datasets.n_rows=1", "datasets.n_columns=2"], "slab_after_sd_60keV"),
}


@pytest.mark.parametrize("kind", SMALLEST)
@pytest.mark.filterwarnings("error:std:UserWarning")
def test_numbers_that_are_not_defined_are_left_out(tmp_path, kind):
    words, present = SMALLEST[kind]
    path = plates(tmp_path / "plates", *words)
    if kind == "one pixel":
        with h5py.File(path, "r+") as file:
            file["counts"][..., 1] = 0
    results = calibrated(tmp_path / "out", path)
    assert present in results
    assert ("gain_sd_percent" in results) == (kind != "one pixel")
    assert ("slab_after_sd_40keV" in results) == (kind != "one pixel")
    assert (tmp_path / "out/report.html").is_file()


def test_residuals_of_calibrated_pixels_are_noise(tmp_path):
    """With a dead pixel that is NaN."""
    path = plates(tmp_path / "plates")
    with h5py.File(path, "r+") as file:
        counts = file["counts"][()]
        counts[..., 2, 3] = float("nan")
        file["counts"][...] = counts
    calibrated(tmp_path / "out", path)
    with h5py.File(tmp_path / "out/arrays.h5") as file:
        after, noise = (file[f"residuals/{name}"][()] for name in ("calibrated", "noise"))
        before = file["residuals/nominal"][()]
    assert (after < 1.5 * noise).all()
    assert (before[1:] > 5 * noise[1:]).all()


def test_plates_are_corrected_for_pile_up(tmp_path):
    path = plates(tmp_path / "plates")
    reference = calibrated(tmp_path / "reference", path)
    time_s, dead_s = 3.0, torch.tensor(5e-9, dtype=torch.float64)
    with h5py.File(path, "r+") as file:
        rate = torch.from_numpy(file["counts"][()]) / time_s
        file["counts"][...] = time_s * registered_rate(rate, dead_s, torch.zeros_like(dead_s))
        file.create_dataset("time_s", data=np.full(5, time_s)).attrs["unit"] = "s"
    times = torch.tensor([5e-9, 5e-9], dtype=torch.float64)
    known = DeadTimes(
        times, 0 * times, torch.zeros(2, 2, 2), torch.ones(2), torch.ones(2) > 0,
        torch.tensor([40.0, 60.0]),
    )  # fmt: skip
    write_dead_times(tmp_path / "dead_times.h5", known)
    words = f"dead_times={tmp_path / 'dead_times.h5'}"
    corrected = calibrated(tmp_path / "out", path, words)
    key = "threshold_error_rms_keV"
    assert corrected[key] == pytest.approx(reference[key], rel=1e-3)
    with pytest.raises(Exception, match="leave dead_times out"):
        calibrated(tmp_path / "series", path, "calibration=dead_times", words)


def test_as_proposed_says_what_is_not_determined(tmp_path):
    path = plates(tmp_path / "plates")
    calibrated(tmp_path / "out", path, "calibration=etb_as_proposed")
    assert "divided by their sum" in (tmp_path / "out/report.html").read_text()
    assert read_pixel_model(tmp_path / "out/pixel_model.h5").gauge == "relative"


def test_without_counts_the_way_to_them_is_shown(tmp_path):
    with pytest.raises(Exception, match=r"datasets=plates"):
        run(composed(tmp_path, f"folder={tmp_path}", name="calibrate"))


@pytest.mark.parametrize("name", ["water_slab", "sfr", "bct", "direct_inversion"])
def test_a_corrector_of_projections_is_refused_before_plates_are_counted(tmp_path, name):
    with pytest.raises(Exception, match=rf"calibration={name} .*experiment=etb_abdomen"):
        calibrated(tmp_path / "out", tmp_path / "none.h5", f"calibration={name}")
    assert not (tmp_path / "out").exists()


def drop_exposures(file):
    for name in ("counts", "exposure", "frames"):
        if name in file:
            values, attributes = file[name][:1], dict(file[name].attrs)
            del file[name]
            file[name] = values
            file[name].attrs.update(attributes)
    values, attributes = file["plates_cm"][:, :1], dict(file["plates_cm"].attrs)
    del file["plates_cm"]
    file["plates_cm"] = values
    file["plates_cm"].attrs.update(attributes)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda file: file.pop("exposure"), "needs the exposure"),
        (drop_exposures, "do not determine"),
    ],
)
def test_errors_name_the_file(tmp_path, damage, named):
    path = plates(tmp_path / "plates")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(Exception, match=rf"plates\.h5: .*{named}"):
        calibrated(tmp_path / "out", path)


def test_wrong_plates_leave_nothing_behind(tmp_path):
    path = plates(tmp_path / "plates")
    with h5py.File(path, "r+") as file:
        file["plates_cm"][...] = file["plates_cm"][()][:, ::-1]
    with pytest.raises(Exception, match=r"plates\.h5"):
        calibrated(tmp_path / "out", path)
    assert not (tmp_path / "out").exists()


def test_plates_are_repeatable_and_their_seed_counts(tmp_path):
    one, same, other = (
        read_plates(plates(tmp_path / name, f"seed={seed}")).plates.counts
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


FAN = [
    "tomography.geometry.n_columns=12",
    "tomography.geometry.pixel_cm=3.0",
    "tomography.geometry.n_views=30",
    "tomography.grid.n_x=60",
    "tomography.grid.n_y=60",
    "tomography.grid.voxel_cm=0.42",
]


@pytest.fixture(scope="module")
def known_head(tmp_path_factory):
    """The scan of a head by the detector of a plate file."""
    folder = tmp_path_factory.mktemp("head")
    path = plates(folder / "plates", "datasets.n_rows=1")
    words = [
        "datasets=heads",
        "datasets.n_cases=1",
        "scan=of_plates",
        f"scan.pixel_model.path={path}",
    ]
    more = ["scan.noise=false", "n_threads=1", f"folder={folder / 'scans'}"]
    run(composed(folder, *words, *FAN, *more, name="simulate"))
    return next((folder / "scans/scans").glob("*.h5"))


def test_a_known_phantom_calibrates_as_well(known_head, tmp_path):
    results = calibrated(tmp_path / "out", known_head, "calibration=layer_phantom")
    assert results["threshold_error_rms_keV"] < 1e-3
    assert results["skew_error_rms_mm"] < 1e-4
    assert results["uncalibrated_pixels"] < 6
    assert (tmp_path / "out/figures/phantom_residuals.png").is_file()


def test_a_known_phantom_may_have_exposures_and_dead_pixels(known_head, tmp_path):
    """Counts times the exposure of their view give the same pixels."""
    path = tmp_path / "scan.h5"
    shutil.copy(known_head, path)
    exposure = np.linspace(0.9, 1.1, 30)
    with h5py.File(path, "r+") as file:
        for name in ("counts", "primary"):
            file[name][...] = file[name][()] * exposure[:, None, None]
        file["counts"][..., 7] = file["air"][..., 7] = np.nan
        file.create_dataset("exposure", data=exposure).attrs["unit"] = "1"
    results = calibrated(tmp_path / "out", path, "calibration=layer_phantom")
    assert results["threshold_error_rms_keV"] < 1e-3
    assert results["skew_error_rms_mm"] < 1e-4
    assert results["uncalibrated_pixels"] < 7


def test_a_scan_and_plates_are_not_confused(known_head, tmp_path):
    with pytest.raises(Exception, match="calibration=layer_phantom"):
        calibrated(tmp_path / "out", known_head)
    path = plates(tmp_path / "plates")
    with pytest.raises(Exception, match="calibration=layer_slabs"):
        calibrated(tmp_path / "out", path, "calibration=layer_phantom")


@pytest.mark.parametrize(
    ("lacking", "named"), [("line_integrals", "docs/plate_file.md"), ("response", "no response")]
)
def test_what_a_phantom_scan_lacks_is_named(known_head, tmp_path, lacking, named):
    path = tmp_path / "scan.h5"
    shutil.copy(known_head, path)
    with h5py.File(path, "r+") as file:
        del file[lacking]
        if lacking == "line_integrals":
            del file["maps"]
    with pytest.raises(Exception, match=named):
        calibrated(tmp_path / "out", path, "calibration=layer_phantom")
    assert not (tmp_path / "out").exists()


FOUR = [
    "physics/thresholds=four_bins",
    "physics.thresholds.edges_keV=[31.0,37.0,54.0,60.0,149.0]",
    "physics.thresholds.learn=null",
]


@pytest.fixture(scope="module")
def unknown_head(tmp_path_factory):
    """A noisy scan in four bins; what it says of the true head is deleted."""
    folder = tmp_path_factory.mktemp("unknown")
    columns = "datasets.n_columns=96"
    small = [*SMALL, "datasets.n_rows=1", columns, "datasets.errors.bias_sd_keV=0.33", *FOUR]
    run(composed(folder, "datasets=plates", f"folder={folder / 'plates'}", *small, name="simulate"))
    words = [
        *("datasets=heads", "datasets.n_cases=1", "scan=of_plates", *FOUR, *FAN),
        *("tomography.geometry.n_columns=96", "tomography.geometry.pixel_cm=0.36"),
        *("tomography.geometry.n_views=60", "physics.spectrum.photons_per_pixel=1e7"),
        *(f"scan.pixel_model.path={folder / 'plates/plates.h5'}", "n_threads=1"),
    ]
    run(composed(folder, *words, f"folder={folder / 'scans'}", name="simulate"))
    path = next((folder / "scans/scans").glob("*.h5"))
    with h5py.File(path, "r+") as file:
        del file["maps"], file["line_integrals"]
    return path


def test_an_unknown_object_calibrates_its_detector(unknown_head, tmp_path):
    # columns of 3.6 mm show structure of the head, not rings
    words = ["calibration=self_calibration", "calibration.flatness=false"]
    results = calibrated(tmp_path / "out", unknown_head, *words)
    assert results["uncalibrated_pixels"] < 3
    found = read_pixel_model(tmp_path / "out/pixel_model.h5")
    true = read_scan(unknown_head).true_thresholds_keV[..., :-1]
    sd = found.threshold_sd_keV
    seen = sd[..., 0] < sd[..., 0].nan_to_num().max() / 2  # the others rest on the prior
    relative = ((found.thresholds_keV - true) / sd)[seen & found.calibrated]
    assert seen.double().mean() > 0.5
    assert relative.square().mean().sqrt() < 1.3
    for keV in (31, 37, 54, 60):
        before, after = (results[f"slab_{when}_sd_{keV}keV"] for when in ("before", "after"))
        assert after < before / 2
    assert (tmp_path / "out/figures/phantom_residuals.png").is_file()


def test_what_self_calibration_needs_is_named(unknown_head, tmp_path):
    with pytest.raises(Exception, match="calibration=self_calibration"):
        calibrated(tmp_path / "out", unknown_head)
    path = plates(tmp_path / "plates")
    with pytest.raises(Exception, match="calibration=etb for a plate file"):
        calibrated(tmp_path / "out", path, "calibration=self_calibration")
    without = tmp_path / "scan.h5"
    shutil.copy(unknown_head, without)
    with h5py.File(without, "r+") as file:
        del file["response"]
    with pytest.raises(Exception, match="no response"):
        calibrated(tmp_path / "out", without, "calibration=self_calibration")
    assert not (tmp_path / "out").exists()
