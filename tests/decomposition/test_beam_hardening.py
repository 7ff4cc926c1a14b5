"""Water of any length gives its monochromatic projection, in every pixel."""

from dataclasses import replace

import pytest
import torch
from support.plates import cdte_scanner, flawed

from pcctlearn.calibration.base import PixelCalibration, ProjectionCorrection
from pcctlearn.decomposition.beam_hardening import mean_energies_keV, spectra_above
from pcctlearn.physics.attenuation import linear_attenuation


def projections(pixels, lengths_cm):
    model = pixels.spectral_model(cdte_scanner())
    spectra = spectra_above(model)
    water = linear_attenuation(["water"], model.energies_keV)[0]
    behind = torch.einsum("ite,le->lit", spectra, torch.exp(-lengths_cm[:, None] * water))
    return -(behind / spectra.sum(-1)).log()


def test_water_of_any_length_is_monochromatic():
    pixels = flawed()
    lengths_cm = torch.tensor([0.0, 3.3, 11.7, 25.1])
    correct = pixels.correction(cdte_scanner())
    corrected = correct(projections(pixels, lengths_cm))
    wanted = lengths_cm[:, None, None] * correct.water_per_cm
    torch.testing.assert_close(corrected, wanted.expand_as(corrected), rtol=1e-5, atol=1e-6)


def test_nominal_polynomials_leave_the_differences_between_pixels():
    pixels = flawed()
    nominal = flawed(skew_cm=0.0, bias_keV=0.0)
    p = projections(pixels, torch.tensor([20.0]))
    own, same = (each.correction(cdte_scanner())(p) for each in (pixels, nominal))
    assert (own.std(1) < 1e-4).all()
    assert (same.std(1) > 1e-3).all()


def test_the_residual_is_what_the_specification_measured():
    """Five powers fit water up to 26 cm to 1e-6 above 40 keV and 4e-8 above 60 keV."""
    nominal = flawed(n_pixels=1, skew_cm=0.0, bias_keV=0.0)
    lengths_cm = torch.linspace(0.4, 26.0, 65)
    correct = nominal.correction(cdte_scanner())
    p = correct(projections(nominal, lengths_cm))[:, 0]
    error = (p - lengths_cm[:, None] * correct.water_per_cm).abs().amax(0)
    assert error[0] < 1e-6
    assert error[1] < 4e-8


def test_mean_energies():
    assert mean_energies_keV(cdte_scanner()) == pytest.approx([65.9, 78.9], abs=0.3)


def test_the_gain_cancels():
    pixels = flawed()
    brighter = replace(pixels, gain=2 * pixels.gain)
    one, other = (each.correction(cdte_scanner()).coefficients for each in (pixels, brighter))
    torch.testing.assert_close(one, other)


def test_pixel_models_are_pixel_calibrations():
    pixels = flawed(n_pixels=2)
    assert isinstance(pixels, PixelCalibration)
    assert isinstance(pixels.correction(cdte_scanner()), ProjectionCorrection)


def test_effective_energies_can_be_chosen():
    correct = flawed(n_pixels=2).correction(cdte_scanner(), effective_keV=[60.0, 60.0])
    low, high = correct.water_per_cm
    assert low == high
