"""Direct inversion: right without noise, far worse than ETB-Cal with it."""

import pytest
import torch
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration.base import Calibrator, PixelCalibration
from pcctlearn.calibration.direct_inversion import DirectInversion
from pcctlearn.calibration.etb import EtbCal


def errors(found, truth):
    error = found.thresholds_keV - truth.thresholds_keV
    return (error - error.median(0).values)[..., 1:]  # counts over their sum leave the mean open


def test_it_is_a_calibrator():
    assert isinstance(DirectInversion(), Calibrator)
    found = DirectInversion().fit(plates_of(flawed()), cdte_scanner())
    assert isinstance(found, PixelCalibration)


def test_small_flaws_are_found_without_noise():
    truth = flawed(skew_cm=0.002, bias_keV=0.5)
    found = DirectInversion(ridge=0.0).fit(plates_of(truth), cdte_scanner())
    assert errors(found, truth).abs().max() < 0.05


def test_noise_is_amplified():
    truth = flawed()
    plates = plates_of(truth, 1e8, seed=3)
    direct, etb = (c.fit(plates, cdte_scanner()) for c in (DirectInversion(), EtbCal()))
    assert errors(direct, truth).std() > 10 * errors(etb, truth).std()


def test_the_correction_takes_the_skew_of_each_threshold():
    found = DirectInversion().fit(plates_of(flawed(), 1e8, seed=3), cdte_scanner())
    spectra = found.spectra_above(cdte_scanner())
    assert spectra.shape == (40, 2, len(cdte_scanner().energies_keV))
    correct = found.correction(cdte_scanner())
    p = torch.rand(3, 40, 2)
    assert correct(p).shape == p.shape
    assert correct.coefficients.shape == (40, 2, 5)


def test_unusable_pixels_are_nominal():
    plates = plates_of(flawed(), 1e8, seed=3)
    plates.counts[:, 4] = 0
    found = DirectInversion().fit(plates, cdte_scanner())
    assert found.flags["without counts"].nonzero().tolist() == [[4]]
    assert not found.calibrated[4]
    assert found.thresholds_keV[4].tolist() == [40.0, 60.0]
    assert found.thickness_cm[4].abs().max() == 0


def test_too_few_plates():
    plates = plates_of(flawed(), 1e8, seed=3)
    few = type(plates)(
        plates.counts[:2], plates.plates_cm[:2], ("aluminium",), plates.thresholds_keV
    )
    with pytest.raises(ValueError, match="2 exposure"):
        DirectInversion().fit(few, cdte_scanner())


def test_a_stuck_pixel_is_flagged_and_corrected_as_nominal():
    plates = plates_of(flawed(n_pixels=400), 1e8, seed=3)
    plates.counts[:, 5] = plates.counts[2, 5]
    found = DirectInversion().fit(plates, cdte_scanner())
    assert not found.calibrated[5]
    assert found.calibrated.sum() > 300
    assert torch.equal(found.thresholds_keV[5], plates.thresholds_keV)
