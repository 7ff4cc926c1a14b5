"""A detector calibrated by the scans that it makes, at a smoke size."""

import pytest
import torch
from support.plates import cdte_scanner
from support.studies import in_context

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.self_calibration import SelfCalibration
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.figures import draw
from pcctlearn.phantoms.ellipses import iodine_abdomen
from pcctlearn.runs.results import write_results
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.self_calibration import SelfCalibrationStudy
from pcctlearn.studies.unknown_objects import ProceduralHead, ScanCase
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

FLAWLESS = DetectorErrors(0.0, 0.0, (0.0, 0.0), 0.0, gain_sd=0.0)


@pytest.fixture(name="results", scope="module")
def _results():
    torch.set_default_dtype(torch.float64)
    head = ProceduralHead(2, voxel_cm=0.1)
    study = SelfCalibrationStudy(
        cdte_scanner((31.0, 37.0, 54.0, 60.0, 149.0)),
        FanBeam(120, 160, 0.224, 75.0, 108.5),
        ImageGrid(96, 96, 0.27),
        self_calibrations={
            "deviance": SelfCalibration(flatness=False),
            "self_calibration": SelfCalibration(window_columns=15),
        },
        calibrations={"etb": EtbCal()},
        errors=DetectorErrors(0.0035, 0.0012, (-0.006, 0.006), 0.3333, 0.0055556),
        plates_cm={"default": {"aluminium": [0.0, 0.5, 1.0, 1.5, 2.0]}},
        cases={
            "head": ScanCase(head, photons=1e7),
            "flawless": ScanCase(head, photons=1e7, errors=FLAWLESS),
            "abdomen": ScanCase(iodine_abdomen(), photons=1e7),
        },
        held_out=ScanCase(ProceduralHead(3, (0.7, -0.5), 0.1), photons=1e7),
        decomposition=MaximumLikelihood,
        regions_cm=[[0.0, -2.5], [-3.5, -2.0], [3.5, -2.0], [-3.0, -5.5], [0.5, -6.5]],
    )
    return study.run(in_context())


def rings(results, scan, keV):
    """Before and after."""
    names = ("nominal", "self_calibration")
    return (results.numbers[f"ring_HU_{keV}keV.{scan}.{name}"] for name in names)


@pytest.mark.parametrize("keV", [50, 70])
@pytest.mark.parametrize("scan", ["head", "held_out"])
def test_rings_are_reduced_fivefold(results, scan, keV):
    before, after = rings(results, scan, keV)
    assert after < before / 5


@pytest.mark.parametrize("keV", [50, 70])
def test_materials_beyond_the_basis_leave_a_gain(results, keV):
    """Iodine and fat are no mixture of water and calcium, which the bins show."""
    before, after = rings(results, "abdomen", keV)
    assert after < before / 2


def test_the_object_is_left_as_it_is(results):
    """Unlike by ring removal, which takes structure away."""
    rms = {
        name: results.numbers[f"rms_HU_70keV.head.{name}"]
        for name in ("nominal", "ring_removal", "self_calibration", "true")
    }
    assert rms["self_calibration"] < rms["nominal"] / 4
    assert rms["self_calibration"] < rms["ring_removal"] / 4
    assert rms["true"] < rms["self_calibration"]


def test_a_flawless_detector_gets_few_rings(results):
    rings = results.numbers["ring_HU_70keV.flawless.self_calibration"]
    assert rings < results.numbers["ring_HU_70keV.head.nominal"] / 5


def test_standard_errors_are_those_of_the_thresholds(results):
    for name in ("deviance", "self_calibration"):
        relative = results.numbers[f"threshold_error_over_standard_error.head.{name}"]
        assert 0.7 < relative < 1.5


def test_the_figures_are_drawn(results, tmp_path):
    write_results(results, tmp_path)
    for figure in results.figures:
        assert draw(figure, tmp_path).axes
