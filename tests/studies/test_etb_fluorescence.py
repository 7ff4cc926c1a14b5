"""Fluorescence beside ETB-Cal: an offset, correlated biases, starved pixels."""

import pytest
import torch
from support.plates import cdte_scanner
from support.studies import in_context

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.figures import draw
from pcctlearn.runs.results import write_results
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.etb_fluorescence import EtbFluorescence


def study(**options):
    calibrations = {
        "etb": EtbCal(),
        "etb_as_proposed": EtbCal(normalisation="model", comparison="counts"),
    }
    errors = DetectorErrors(0.0035, 0.0012, (-0.006, 0.006), 0.6667)
    settings = {"n_pixels": 80, "spot_pixels": 10.0, "sweep_keV": (45.0, 75.0), **options}
    plates_cm = {"aluminium": (0.0, 0.5, 1.0, 1.5, 2.0)}
    return EtbFluorescence(cdte_scanner(), calibrations, errors, plates_cm, **settings)


@pytest.fixture(name="results", scope="module")
def _results():
    torch.set_default_dtype(torch.float64)
    return study(common_skew_cm=(0.0, 0.01)).run(in_context())


def test_biases_correlate_and_have_an_offset(results):
    """Charge sharing registers the line of tungsten 0.6 keV below its energy."""
    numbers = results.numbers
    assert numbers["correlation_with_truth.fluorescence.0mm"] > 0.85
    assert 0.4 < numbers["offset_keV.fluorescence.0mm"] < 0.9
    assert abs(numbers["offset_keV.etb.0mm"]) < 0.02
    assert numbers["error_sd_keV.etb.0mm"] < 0.1 * numbers["error_sd_keV.fluorescence.0mm"]


def test_starved_pixels_spoil_the_correlation(results):
    numbers = results.numbers
    assert 15 < numbers["usable_percent.0mm"] < 50
    all_pixels = numbers["correlation_all.fluorescence_and_etb.0mm"]
    assert all_pixels < numbers["correlation.fluorescence_and_etb.0mm"]


def test_a_bias_of_all_pixels_is_seen_by_fluorescence_and_by_ratios_only():
    numbers = study(common_bias_keV=1.4).run(in_context()).numbers
    assert abs(numbers["offset_keV.fluorescence.0mm"]) < 0.9
    assert abs(numbers["offset_keV.etb.0mm"]) < 0.02
    assert numbers["offset_keV.etb_as_proposed.0mm"] < -1.2


def test_figures_are_drawn_from_the_folder(results, tmp_path):
    write_results(results, tmp_path)
    for name in results.figures:
        draw(name, tmp_path).savefig(tmp_path / "figure.png", dpi=40)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"metals": ()}, r"\[W\]"),
        ({"metals": ("Xx",)}, "symbols"),
        ({"sweep_keV": (75.0, 45.0)}, r"sweep_keV=\[35,85\]"),
        ({"photons": 0.0}, "photons"),
    ],
)
def test_settings_are_checked(wrong, named):
    with pytest.raises(ValueError, match=named):
        study(**wrong)


def test_lines_outside_the_sweep_are_named():
    with pytest.raises(ValueError, match=r"study.sweep_keV=\[45,80\]"):
        study(metals=("Pb",)).run(in_context())
