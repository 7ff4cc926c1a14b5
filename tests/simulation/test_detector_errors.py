"""Pixels that differ as they were asked to."""

import pytest
import torch

from pcctlearn.simulation.detector_errors import DetectorErrors

NOMINAL_keV = torch.tensor([40.0, 60.0], dtype=torch.float64)


def test_the_bias_of_an_energy_scale_rises_with_the_threshold():
    errors = DetectorErrors(0.0, 0.0, (0.0, 0.0), bias_sd_keV=0.0, scale_sd=0.01)
    pixels = errors.pixels(NOMINAL_keV, 400, seed=0)
    low, high = (pixels.thresholds_keV - NOMINAL_keV).std(0).tolist()
    assert high / low == pytest.approx(1.5)
    assert low == pytest.approx(0.4, rel=0.1)


def test_biases_have_no_mean_and_the_lowest_threshold_none():
    pixels = DetectorErrors(0.0, 0.0, (0.0, 0.0), 1.0).pixels(NOMINAL_keV, 50, seed=3)
    torch.testing.assert_close(pixels.thresholds_keV.mean(0), NOMINAL_keV)
    assert (pixels.thresholds_keV[:, 0] == 40).all()
    assert (pixels.thresholds_keV[:, 1] - 60).abs().max() < 3.5


def test_the_skew_stays_within_its_range_times_the_factor():
    errors = DetectorErrors(0.005, 0.002, (-0.0075, 0.01), 0.0)
    pixels = errors.pixels(NOMINAL_keV, 300, seed=0, material="copper", factor=2.0)
    assert pixels.materials == ("copper",)
    assert pixels.thickness_cm.min() >= -0.015
    assert pixels.thickness_cm.max() <= 0.02
    assert pixels.thickness_cm.std() > 0.005
