"""A flat field behind a slab is right behind this slab alone."""

from dataclasses import replace

import pytest
import torch
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration.base import Calibrator, PixelCalibration, ProjectionCorrection
from pcctlearn.calibration.water_slab import WaterSlab
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.simulation.plates import measured_plates

SLAB_CM = torch.tensor([[0.0], [20.0]], dtype=torch.float64)


def slab_of(truth, photons=1e10, seed=None):
    return measured_plates(truth, cdte_scanner(), SLAB_CM, ("water",), photons, seed)


def measured(pixels, cm):
    water = linear_attenuation(["water"], cdte_scanner().energies_keV)[0]
    above = pixels.spectra_above(cdte_scanner())
    return -((above @ torch.exp(-cm * water)) / above.sum(-1)).log()


def test_it_is_a_calibrator():
    found = WaterSlab().fit(slab_of(flawed()), cdte_scanner())
    assert isinstance(WaterSlab(), Calibrator)
    assert isinstance(found, PixelCalibration)
    assert isinstance(found.correction(cdte_scanner()), ProjectionCorrection)


def test_the_slab_is_flat_and_other_lengths_are_nearly():
    truth = flawed()
    correct = WaterSlab().fit(slab_of(truth), cdte_scanner()).correction(cdte_scanner())
    spreads = {cm: correct(measured(truth, cm)).std(0) for cm in (5.0, 20.0, 35.0)}
    assert spreads[20.0].max() < 1e-9
    assert spreads[5.0].min() > 1e-5
    plain = flawed(skew_cm=0.0, bias_keV=0.0).correction(cdte_scanner())
    assert (spreads[5.0] < plain(measured(truth, 5.0)).std(0)).all()


def test_plates_of_another_number_are_refused():
    with pytest.raises(ValueError, match="5 exposures"):
        WaterSlab().fit(plates_of(flawed()), cdte_scanner())
    with pytest.raises(ValueError, match="exposure of each"):
        WaterSlab().fit(replace(slab_of(flawed()), exposure=None), cdte_scanner())


def test_two_slabs_without_air_are_refused():
    plates = slab_of(flawed())
    with pytest.raises(ValueError, match="10 mm water and 200 mm water"):
        WaterSlab().fit(
            replace(plates, plates_cm=torch.tensor([[1.0], [20.0]]).double()), cdte_scanner()
        )


def test_dead_pixels_are_left_as_they_are():
    plates = slab_of(flawed(), 1e8, 3)
    plates.counts[1, 4] = 0
    found = WaterSlab().fit(plates, cdte_scanner())
    assert (~found.calibrated).nonzero().tolist() == [[4]]
    assert found.scale[4].tolist() == [1.0, 1.0]
