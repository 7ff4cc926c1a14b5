"""ETB-Cal of simulated detectors: what it finds without noise, and what noise leaves."""

import pytest
import torch
from support.plates import cdte_scanner
from support.studies import in_context

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.figures import draw
from pcctlearn.runs.results import write_results
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.etb_validation import EtbValidation

WIDE = DetectorErrors(0.005, 0.002, (-0.0075, 0.01), 3.3)


def study(**options):
    calibrations = {
        "anchored": EtbCal(),
        "as_proposed": EtbCal(normalisation="model", comparison="counts"),
    }
    settings = {"skews": {"CdTe": 1.0}, "ridges": (1e-8,), "n_pixels": 48, **options}
    return EtbValidation(cdte_scanner(), calibrations, errors=WIDE, **settings)


@pytest.fixture(name="results", scope="module")
def _results():
    torch.set_default_dtype(torch.float64)
    return study().run(in_context())


def test_without_noise_the_anchored_calibration_is_exact(results):
    numbers = results.numbers
    assert numbers["skew_error_max_mm.anchored.CdTe"] < 1e-10
    assert numbers["threshold_error_max_keV.anchored.CdTe"] < 1e-9
    assert numbers["projection_error_sd_60keV.anchored.CdTe"] < 1e-9
    assert numbers["projection_uncorrected_sd_60keV.anchored.CdTe"] > 0.01


def test_noise_is_scored_apart(results):
    numbers = results.numbers
    assert 1e-4 < numbers["noisy_skew_error_sd_mm.anchored.CdTe"] < 5e-4
    assert numbers["noisy_threshold_error_rms_keV.anchored.CdTe"] < 0.015
    direct = numbers["noisy_threshold_error_rms_keV.direct_1e-08.CdTe"]
    assert direct > 10 * numbers["noisy_threshold_error_rms_keV.anchored.CdTe"]
    without, with_noise = results.tables
    assert [row[0] for row in without.rows] == [
        "CdTe, anchored",
        "CdTe, as_proposed",
        "CdTe, direct_1e-08",
    ]
    assert len(without.rows) == len(with_noise.rows)


def test_figures_are_drawn_from_the_folder(results, tmp_path):
    write_results(results, tmp_path)
    for name in results.figures:
        draw(name, tmp_path).savefig(tmp_path / "figure.png", dpi=40)


@pytest.mark.parametrize("wrong", [{"n_draws": 0}, {"n_pixels": 1}])
def test_counts_of_draws_and_pixels(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        study(**wrong)
