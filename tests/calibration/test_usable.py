"""Remedies of calibrations can be typed, and a pixel unlike all others is an outlier."""

from dataclasses import replace

import pytest
import torch
from support.plates import PLATES_CM, cdte_scanner, flawed, plates_of

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.plate_counts import plate_model
from pcctlearn.calibration.usable import require_expected, unusable
from pcctlearn.simulation.plates import measured_plates


def of_pixels(plates):
    return plates.counts.movedim(0, 1).double()


def test_a_pixel_five_times_brighter_is_an_outlier():
    counts = of_pixels(plates_of(flawed()))
    counts[3] *= 5
    flags = unusable(counts)
    assert flags["outlier"].nonzero().tolist() == [[3]]


def test_settings_are_named_as_keys_of_the_command_line():
    plates = replace(plates_of(flawed()), exposure=None)
    keys = r"calibration\.normalisation=model calibration\.comparison=counts"
    with pytest.raises(ValueError, match=keys):
        EtbCal().fit(plates, cdte_scanner())
    with pytest.raises(ValueError, match=r"calibration\.comparison=counts"):
        EtbCal(normalisation="model")
    with pytest.raises(ValueError, match=r"calibration\.materials="):
        EtbCal(materials=["CdTe", "CdTe"])


def test_the_attribute_of_the_file_comes_before_python():
    plates = plates_of(flawed())
    bins = torch.stack([plates.counts[..., 0] - plates.counts[..., 1], plates.counts[..., 1]], -1)
    with pytest.raises(ValueError, match=r"counted.*'bins'.*Python"):
        EtbCal().fit(replace(plates, counts=bins), cdte_scanner())


def test_exposures_are_among_the_causes_of_wrong_counts():
    plates = plates_of(flawed())
    wrong = replace(plates, exposure=torch.tensor([1.0, 9.0, 9.0, 9.0, 9.0]))
    with pytest.raises(ValueError, match="check the exposures"):
        EtbCal().fit(wrong, cdte_scanner())


@pytest.mark.parametrize("skew_cm", [-0.01, 0.01])
def test_a_skew_that_all_pixels_share_is_no_fault_of_the_plates(skew_cm):
    truth = flawed()
    truth = replace(truth, thickness_cm=truth.thickness_cm + skew_cm)
    plates = measured_plates(truth, cdte_scanner(), PLATES_CM, ("aluminium",), 1e10)
    model = plate_model(plates, cdte_scanner(), ["water"])
    require_expected(of_pixels(plates), model, plates)
    wrong = replace(plates, plates_cm=10 * plates.plates_cm)
    model = plate_model(wrong, cdte_scanner(), ["water"])
    with pytest.raises(ValueError, match="in mm"):
        require_expected(of_pixels(wrong), model, wrong)
