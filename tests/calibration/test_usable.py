"""Remedies of calibrations can be typed, and a pixel unlike all others is an outlier."""

from dataclasses import replace

import pytest
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.usable import unusable


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


def test_a_single_pixel_has_none_to_be_compared_with():
    plates = plates_of(flawed(n_pixels=3))
    plates.counts[:, :2] = 0
    with pytest.raises(ValueError, match=r"only one .*calibration=etb "):
        EtbCal(normalisation="model", comparison="counts").fit(plates, cdte_scanner())
    assert EtbCal().fit(plates, cdte_scanner()).calibrated.tolist() == [False, False, True]
