"""Mixtures of the basis materials give monochromatic projections, in every pixel."""

from dataclasses import replace

import pytest
import torch
from support.plates import cdte_scanner, flawed, held_out, water_iodine_scanner

from pcctlearn.calibration.base import ProjectionCorrection
from pcctlearn.calibration.material_correction import material_correction
from pcctlearn.decomposition.beam_hardening import beam_hardening, spectra_above
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.spectral_model import expected_counts

RANGE_G_CM2 = {"water": 30.0, "iodine": 0.06}


def correction_of(pixels, **settings):
    nominal = water_iodine_scanner()
    return material_correction(pixels.spectra_above(nominal), nominal, RANGE_G_CM2, **settings)


def projections(pixels, line_integrals):
    """(ray, pixel, threshold) behind water and iodine (ray, 2) in g/cm²."""
    nominal = water_iodine_scanner()
    spectra = pixels.spectra_above(nominal)
    rays = line_integrals.reshape(-1, 1, 2).expand(-1, len(spectra), 2)
    return (spectra.sum(-1) / expected_counts(rays, spectra, nominal.attenuation)).log()


def test_held_out_water_and_iodine():
    """RMS errors in g/cm² that the specification allows, over all pixels of a flawed detector."""
    pixels, truth = flawed(n_pixels=20), held_out().reshape(-1, 1, 2)
    found = correction_of(pixels).line_integrals(projections(pixels, truth))
    rms = (found - truth).square().mean((0, 1)).sqrt()
    assert rms[0] < 1.5e-4
    assert rms[1] < 1e-5


def test_a_nominal_polynomial_leaves_the_errors_of_the_pixel():
    """Errors of a skew of 0.04 mm and a bias of 1 keV in the specification: 0.027 and 0.0061."""
    one = flawed(n_pixels=1)
    pixel = replace(
        one,
        thickness_cm=torch.full_like(one.thickness_cm, 0.004),
        thresholds_keV=one.nominal_keV + torch.tensor([[0.0, 1.0]], dtype=torch.float64),
    )
    nominal = flawed(n_pixels=1, skew_cm=0.0, bias_keV=0.0)
    truth = held_out().reshape(-1, 1, 2)
    found = correction_of(nominal).line_integrals(projections(pixel, truth))
    rms = (found - truth).square().mean((0, 1)).sqrt()
    assert rms[0] == pytest.approx(0.027, rel=0.1)
    assert rms[1] == pytest.approx(0.0061, rel=0.1)


def test_mixtures_are_monochromatic_where_beam_hardening_of_water_is_not():
    pixels, nominal = flawed(n_pixels=5), water_iodine_scanner()
    truth = torch.tensor([[20.0, 0.05], [5.0, 0.02]], dtype=torch.float64)
    p = projections(pixels, truth)
    correct = correction_of(pixels)
    wanted = (truth @ attenuation_table(["water", "iodine"], correct.effective_keV))[:, None]
    of_water = beam_hardening(pixels.spectra_above(nominal), nominal)
    assert (correct(p) - wanted).abs().max() < 2e-4
    assert (of_water(p) - wanted).abs().max() > 2e-2


def test_air_has_projections_of_zero():
    pixels = flawed(n_pixels=3)
    p = torch.zeros(4, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(correction_of(pixels)(p), p)


def test_effective_energies_can_be_chosen():
    correct = correction_of(flawed(n_pixels=2), effective_keV=[60.0, 60.0])
    low, high = correct.water_per_cm
    assert low == high
    p = correct(torch.tensor([[[1.0, 0.8]]], dtype=torch.float64).expand(1, 2, 2))
    torch.testing.assert_close(p[..., 0], p[..., 1])


def test_single_precision_is_kept():
    pixels = flawed(n_pixels=2)
    p = projections(pixels, torch.tensor([[20.0, 0.03]], dtype=torch.float64))
    correct = correction_of(pixels)
    single = correct(p.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), correct(p), rtol=1e-5, atol=0)


def test_every_scanner_has_one():
    nominal = water_iodine_scanner()
    correct = material_correction(spectra_above(nominal), nominal, RANGE_G_CM2)
    assert isinstance(correct, ProjectionCorrection)
    assert correct(torch.ones(7, 2, dtype=torch.float64)).shape == (7, 2)


def test_wrong_materials_are_named():
    nominal = cdte_scanner(materials=("water", "iodine", "calcium"))
    ranges = {"water": 30.0, "iodine": 0.06, "calcium": 1.0}
    with pytest.raises(ValueError, match=r"2 thresholds .* 3 basis materials"):
        material_correction(spectra_above(nominal), nominal, ranges)
    with pytest.raises(ValueError, match="iodine"):
        material_correction(spectra_above(nominal), water_iodine_scanner(), {"water": 30.0})
