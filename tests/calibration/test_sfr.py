"""SFR: corrects water as the true pixels would, and absorbs a curved flux."""

from dataclasses import replace

import pytest
import torch
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration.base import Calibrator, PixelCalibration, ProjectionCorrection
from pcctlearn.calibration.sfr import Sfr
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.simulation.plates import measured_plates

PMMA_CM = (0.0, 2.5, 5.0, 7.5, 10.0)
ALUMINIUM_CM = (0.0, 0.6, 1.2, 1.8, 2.4)
GRID_CM = torch.tensor([[p, a] for p in PMMA_CM for a in ALUMINIUM_CM], dtype=torch.float64)


def grid_plates(truth, photons=1e10, seed=None):
    return measured_plates(truth, cdte_scanner(), GRID_CM, ("PMMA", "aluminium"), photons, seed)


def slab(pixels, cm=20.0):
    """Projections of water that the pixels measure, and its length."""
    water = linear_attenuation(["water"], cdte_scanner().energies_keV)[0]
    above = pixels.spectra_above(cdte_scanner())
    return -((above @ torch.exp(-cm * water)) / above.sum(-1)).log()


def test_it_is_a_calibrator():
    assert isinstance(Sfr(), Calibrator)
    found = Sfr().fit(grid_plates(flawed()), cdte_scanner())
    assert isinstance(found, PixelCalibration)
    assert isinstance(found.correction(cdte_scanner()), ProjectionCorrection)
    assert found.calibrated.all()


@pytest.mark.parametrize(("photons", "seed", "bound"), [(1e10, None, 1e-4), (1e8, 3, 2e-3)])
def test_water_is_monochromatic_in_every_pixel(photons, seed, bound):
    truth = flawed()
    found = Sfr().fit(grid_plates(truth, photons, seed), cdte_scanner())
    correct = found.correction(cdte_scanner())
    error = correct(slab(truth)) - 20.0 * correct.water_per_cm
    uncorrected = flawed(skew_cm=0.0, bias_keV=0.0).correction(cdte_scanner())(slab(truth))
    assert error.std(0).max() < bound
    assert (error.std(0) < uncorrected.std(0) / 5).all()


def test_a_curved_flux_is_inverted():
    """Counts that pile-up lowers by 5 % in air are straightened."""
    plates = grid_plates(flawed())
    share = plates.counts / plates.counts[0]
    curved = replace(plates, counts=plates.counts * (1 - 0.05 * share))
    found = Sfr().fit(curved, cdte_scanner())
    truth = slab(flawed())
    y = torch.exp(-truth)
    measured = -(y * (1 - 0.05 * y) / (1 - 0.05)).log()
    correct = found.correction(cdte_scanner())
    error = correct(measured) - 20.0 * correct.water_per_cm
    assert error.std(0).max() < 1e-3
    assert error.abs().max() < 5e-3
    straight = Sfr().fit(plates, cdte_scanner()).correction(cdte_scanner())
    assert (straight(measured) - 20.0 * correct.water_per_cm).abs().max() > 0.02


def test_five_plates_are_too_few():
    with pytest.raises(ValueError, match="5 exposure"):
        Sfr().fit(plates_of(flawed()), cdte_scanner())


def test_air_and_exposures_are_needed():
    plates = grid_plates(flawed())
    for wrong, named in (
        (replace(plates, exposure=None), "exposure of each plate.*to ones"),
        (replace(plates, plates_cm=plates.plates_cm + torch.tensor([0.0, 0.1])), "without plates"),
    ):
        with pytest.raises(ValueError, match=f"{named}.*etb_as_proposed"):
            Sfr().fit(wrong, cdte_scanner())


def test_unusable_pixels_are_nominal():
    plates = grid_plates(flawed(), 1e8, seed=3)
    plates.counts[:, 4] = 0
    found = Sfr().fit(plates, cdte_scanner())
    assert (~found.calibrated).nonzero().tolist() == [[4]]
    assert found.flux[4].abs().max() == 0
