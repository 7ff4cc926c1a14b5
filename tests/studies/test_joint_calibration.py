"""The calibration of a whole detector in a small size, and as a command."""

from dataclasses import replace

import pytest
import torch
from support.phantom_scans import AIR_VIEWS, detector, piled_up_scan, scanner
from support.studies import in_context

from pcctlearn.calibration.dead_time_file import read_dead_times
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.pixel_model_file import read_pixel_model
from pcctlearn.calibration.whole_detector import WholeDetector
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.figures import draw
from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.phantoms.ellipses import iodine_abdomen, water_calcium_phantom
from pcctlearn.runs.results import write_results
from pcctlearn.scans.file import write_scan
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.dead_time_calibration import calibration_job
from pcctlearn.studies.joint_bench import CollimatedBeam, Counters
from pcctlearn.studies.joint_calibration import JointCalibration, Today
from pcctlearn.studies.pulse_check import PulseCheck
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

COLUMNS = 32


def study(**options):
    fan = (COLUMNS, 35.84 / COLUMNS, 75.0, 108.5)
    settings = {
        "model": scanner(),
        "calibrator": WholeDetector(),
        "today": Today(EtbCal(), {"aluminium": (0.0, 1.0, 2.0)}, (0.25, 0.5, 0.75, 1.0), 1e7, 0.5),
        "errors": DetectorErrors(0.0035, 0.0012, (-0.006, 0.006), 0.1, 0.005, 0.05),
        "common_keV": (0.15, -0.1, 0.2, -0.15),
        "counters": Counters((12e-9, 11e-9, 10e-9, 9e-9), 8e-9, 7.5e6),
        "beam": CollimatedBeam(4.0, 8, ObjectScatter(accuracy=0.1, max_histories=16000), 0.4),
        "phantom": water_calcium_phantom((26.88, 7.0), insert_x_cm=(-11.0, 0.0, 11.0)),
        "geometry": FanBeam(24, *fan),
        "judged": iodine_abdomen(),
        "judged_geometry": FanBeam(40, *fan),
        "grid": ImageGrid(32, 32, 0.75),
        "decomposition": MaximumLikelihood,
        "photons": (5e8,),
        "without": ("scatter",),
        "n_draws": 1,
        "pulses": PulseCheck(2e-8, 1e6, 8, 12),
    }
    return JointCalibration(**settings | options)


@pytest.fixture(name="results", scope="module")
def _results():
    torch.set_default_dtype(torch.float64)
    return study().run(in_context())


def test_the_joint_fit_is_better_than_what_is_done_today(results):
    numbers = results.numbers
    for quantity in ("threshold_rms_keV", "amplitude_error_percent", "image_rms_HU"):
        joint = numbers[f"{quantity}.5e8.joint"]
        assert joint < numbers[f"{quantity}.5e8.sequential"]
        assert joint < numbers[f"{quantity}.5e8.without_scatter"]
    assert numbers["threshold_rms_keV.5e8.joint"] < 0.1


def test_pulses_are_counted(results):
    assert "pulses_dead_time_error_percent_25keV" in results.numbers


def test_figures_are_drawn_from_the_folder(results, tmp_path):
    write_results(results, tmp_path)
    for name in results.figures:
        draw(name, tmp_path).savefig(tmp_path / "figure.png", dpi=40)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"photons": ()}, "photons"),
        ({"n_draws": 0}, "n_draws"),
        ({"common_keV": (0.1,)}, "common_keV"),
        ({"judged_geometry": FanBeam(40, 16, 2.0, 75.0, 108.5)}, "n_columns"),
    ],
)
def test_settings_are_checked(wrong, named):
    with pytest.raises(ValueError, match=named):
        study(**wrong)


def test_the_command_writes_both_files(tmp_path):
    scan = piled_up_scan(COLUMNS, 24, noisy=True)
    write_scan(tmp_path / "scan.h5", scan)
    context = in_context(tmp_path / "out")
    job = calibration_job(str(tmp_path / "scan.h5"), WholeDetector(air_views=AIR_VIEWS))
    results = job.run(context)
    pixels = read_pixel_model(context.folder / "pixel_model.h5")
    dead = read_dead_times(context.folder / "dead_times.h5")
    error = (pixels.thresholds_keV[0] - detector(COLUMNS).thresholds_keV)[pixels.calibrated[0]]
    assert error.square().mean().sqrt() < 0.1
    total = 1e9 * (dead.paralysable_s + dead.nonparalysable_s)
    assert total[0] == pytest.approx(20, rel=0.1)
    assert "looks like" in results.summary
    assert results.numbers["scatter_amplitude"] == pytest.approx(0.4, rel=0.05)


def test_what_is_no_phantom_scan_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"counts=SCAN\.h5"):
        calibration_job(None, WholeDetector())
    scan = replace(piled_up_scan(16, 16), line_integrals=None, materials=())
    write_scan(tmp_path / "scan.h5", scan)
    with pytest.raises(ValueError, match="line_integrals"):
        calibration_job(str(tmp_path / "scan.h5"), WholeDetector())
