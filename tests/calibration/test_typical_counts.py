"""Counts that are not those above the thresholds are named, and each remedy works."""

from dataclasses import replace

import pytest
import torch
from support.plates import AS_PROPOSED, PLATES_CM, cdte_scanner, flawed, plates_of

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.layer_slabs import LayerSlabs
from pcctlearn.calibration.plate_counts import plate_model
from pcctlearn.calibration.typical_counts import require_expected, require_nested
from pcctlearn.physics.thresholds import bins_from_above
from pcctlearn.simulation.plates import measured_plates

EDGES_KEV = [(40.0, 60.0, 149.0), (60.0, 80.0, 149.0), (31.0, 37.0, 54.0, 60.0, 149.0)]


def detector(edges_keV=EDGES_KEV[0], skew_cm=0.0, bias_keV=0.0):
    """Flawed pixels whose skew, and last threshold, all differ from nominal."""
    truth = flawed(bias_keV=0.3, edges_keV=edges_keV)
    thresholds = truth.thresholds_keV.clone()
    thresholds[:, -1] += bias_keV
    return replace(truth, thickness_cm=truth.thickness_cm + skew_cm, thresholds_keV=thresholds)


def checked(plates, edges_keV=EDGES_KEV[0], check=require_nested):
    scanner = cdte_scanner(edges_keV)
    check(plates.counts.movedim(0, 1).double(), plate_model(plates, scanner, ["water"]), plates)


def in_bins(plates, bins):
    return CalibrationSet.from_bins(
        bins, plates.plates_cm, plates.materials, plates.thresholds_keV, plates.exposure
    )


@pytest.mark.parametrize("edges_keV", EDGES_KEV)
@pytest.mark.parametrize("skew_cm", [-0.003, 0.0, 0.003])
def test_counted_is_named_where_it_is_wrong_and_its_other_value_is_right(edges_keV, skew_cm):
    above = plates_of(detector(edges_keV, skew_cm), 1e8, seed=3)
    bins = bins_from_above(above.counts)
    checked(above, edges_keV)
    checked(in_bins(above, bins), edges_keV)
    with pytest.raises(ValueError, match=r"'bins'.*from_bins"):
        checked(replace(above, counts=bins), edges_keV)
    with pytest.raises(ValueError, match=r"sums.*'above'.*without from_bins"):
        checked(in_bins(above, above.counts), edges_keV)
    with pytest.raises(ValueError, match="reverse"):
        checked(in_bins(above, bins.flip(-1)), edges_keV)


def test_the_present_value_of_counted_is_no_remedy():
    above = plates_of(detector(), 1e8, seed=3)
    sums = above.counts.flip(-1).cumsum(-1).flip(-1)
    with pytest.raises(ValueError, match="store those above each threshold"):
        checked(replace(above, counts=sums))


@pytest.mark.parametrize("edges_keV", EDGES_KEV)
@pytest.mark.parametrize("bias_keV", [-5.0, -4.0, -3.0, -2.5, 2.5, 3.0, 4.0, 5.0])
@pytest.mark.parametrize("counted", ["above", "bins"])
def test_a_bias_that_all_pixels_share_is_not_taken_for_bins_or_sums(edges_keV, bias_keV, counted):
    truth = detector(edges_keV, bias_keV=bias_keV)
    plates = replace(plates_of(truth, 1e8, seed=3), counted=counted)
    checked(plates, edges_keV, require_expected)


@pytest.mark.parametrize("calibrator", [EtbCal(), LayerSlabs()], ids=["etb", "layer"])
@pytest.mark.parametrize("bias_keV", [-4.0, 3.0, 5.0])
def test_a_bias_that_all_pixels_share_is_found_within_its_error_bars(calibrator, bias_keV):
    truth = detector(bias_keV=bias_keV)
    found = calibrator.fit(plates_of(truth, 1e8, seed=3), cdte_scanner())
    error = (found.thresholds_keV - truth.thresholds_keV)[:, 1] / found.threshold_sd_keV[:, 1]
    assert found.calibrated.all()
    # of 40 pixels: four standard errors of the mean, and of the standard deviation
    assert error.mean().abs() < 4 / 40**0.5
    assert error.std().item() == pytest.approx(1, abs=4 / 80**0.5)
    (warning,) = found.warnings
    assert "correct thresholds_keV" in warning
    corrected = float(warning.split("is ")[1].split(" keV")[0])
    assert corrected == pytest.approx(60 + bias_keV, abs=0.2)


@pytest.mark.parametrize("bias_keV", [-4.0, 0.0, 1.0, 3.0])
def test_as_proposed_a_bias_that_all_pixels_share_is_named(bias_keV):
    plates = plates_of(detector(bias_keV=bias_keV), 1e7, seed=3)
    found = EtbCal(**AS_PROPOSED).fit(plates, cdte_scanner())
    named = [w for w in found.warnings if "correct thresholds_keV" in w]
    assert bool(named) == (abs(bias_keV) > 2)
    for warning in named:
        value = float(warning.split("above 40, ")[1].split(" keV")[0])
        assert value == pytest.approx(60 + bias_keV, abs=0.3)


@pytest.mark.parametrize("bias_keV", [-8.0, 8.0])
def test_nominal_thresholds_far_from_the_true_ones_are_corrected(bias_keV):
    truth = detector(bias_keV=bias_keV)
    plates = plates_of(truth, 1e8, seed=3)
    with pytest.raises(ValueError, match="correct thresholds_keV") as raised:
        checked(plates)
    found = float(str(raised.value).split("above 40, ")[1].split(" keV")[0])
    assert found == pytest.approx(60 + bias_keV, abs=0.3)
    thresholds = torch.tensor([40.0, found], dtype=torch.float64)
    checked(replace(plates, thresholds_keV=thresholds), (40.0, found, 149.0))


def test_exposures_are_among_the_causes_of_wrong_counts():
    wrong = replace(plates_of(detector()), exposure=torch.tensor([1.0, 9.0, 9.0, 9.0, 9.0]))
    with pytest.raises(ValueError, match="check the exposures"):
        checked(wrong, check=require_expected)


@pytest.mark.parametrize("skew_cm", [-0.01, 0.01])
def test_a_skew_that_all_pixels_share_is_no_fault_of_the_plates(skew_cm):
    plates = plates_of(detector(skew_cm=skew_cm))
    checked(plates, check=require_expected)
    with pytest.raises(ValueError, match="in mm"):
        checked(replace(plates, plates_cm=10 * plates.plates_cm), check=require_expected)


@pytest.mark.parametrize(
    ("true", "told"),
    [("copper", "aluminium"), ("aluminium", "copper"), ("PMMA", "aluminium"), ("PMMA", "copper")],
)
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_a_wrong_material_is_not_taken_for_lengths_in_mm(true, told, scale):
    cm = (0.1 if true == "copper" else 5 if true == "PMMA" else 1) * scale * PLATES_CM
    plates = measured_plates(detector(), cdte_scanner(), cm, (true,), 1e10)
    with pytest.raises(ValueError, match="materials of the plates"):
        checked(replace(plates, materials=(told,)), check=require_expected)
