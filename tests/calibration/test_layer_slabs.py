"""Calibration through the decomposition: as good as the counts allow."""

from dataclasses import replace

import pytest
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration.base import Calibrator
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.layer_slabs import LayerSlabs


def test_it_is_a_calibrator():
    assert isinstance(LayerSlabs(), Calibrator)


def test_without_noise_it_is_exact():
    truth = flawed()
    found = LayerSlabs().fit(plates_of(truth), cdte_scanner())
    assert found.calibrated.all()
    assert (found.thresholds_keV - truth.thresholds_keV).abs().max() < 1e-5
    assert (found.thickness_cm - truth.thickness_cm).abs().max() < 1e-7
    gain = truth.gain / truth.gain.median()
    assert (found.gain - gain).abs().max() < 1e-5


def test_noise_is_that_of_the_error_bars_and_of_etb_cal():
    truth = flawed(n_pixels=200)
    plates = plates_of(truth, 1e8, seed=3)
    found, etb = (c.fit(plates, cdte_scanner()) for c in (LayerSlabs(), EtbCal()))
    error = (found.thresholds_keV - truth.thresholds_keV)[:, 1]
    within = (error.abs() < found.threshold_sd_keV[:, 1]).double().mean()
    assert 0.58 < within < 0.78
    etb_error = (etb.thresholds_keV - truth.thresholds_keV)[:, 1]
    assert error.std() < 1.1 * etb_error.std()


def test_three_thresholds():
    edges_keV = (35.0, 50.0, 65.0, 149.0)
    truth = flawed(n_pixels=12, edges_keV=edges_keV)
    found = LayerSlabs().fit(plates_of(truth), cdte_scanner(edges_keV))
    assert (found.thresholds_keV - truth.thresholds_keV).abs().max() < 1e-5


def test_dead_pixels_are_nominal():
    plates = plates_of(flawed(n_pixels=12), 1e8, seed=3)
    plates.counts[:, 4] = 0
    found = LayerSlabs().fit(plates, cdte_scanner())
    assert (~found.calibrated).nonzero().tolist() == [[4]]
    assert found.thresholds_keV[4].tolist() == [40.0, 60.0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"materials": ("PMMA",)}, "PMMA"),
        ({"exposure": None}, "exposure of each plate"),
    ],
)
def test_what_it_needs_is_named(change, named):
    plates = replace(plates_of(flawed(n_pixels=6)), **change)
    with pytest.raises(ValueError, match=named):
        LayerSlabs().fit(plates, cdte_scanner())
