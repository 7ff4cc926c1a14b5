"""The skew of a pixel filters its spectrum, whatever the thresholds."""

import pytest
import torch
from support.scanners import scanner

from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.skew import Skew, skew_filter
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.spectrum import transmission

ENERGIES_keV = torch.arange(20.0, 120.0)


def test_a_filter_of_positive_thickness_is_a_plate():
    attenuation = linear_attenuation(["aluminium", "CdTe"], ENERGIES_keV)
    gain, thickness = torch.tensor([0.9]), torch.tensor([[0.2, 0.01]])
    plate = transmission("aluminium", 0.2, ENERGIES_keV) * transmission("CdTe", 0.01, ENERGIES_keV)
    torch.testing.assert_close(skew_filter(gain, thickness, attenuation)[0], 0.9 * plate)


def test_opposite_thicknesses_cancel():
    attenuation = linear_attenuation(["copper"], ENERGIES_keV)
    x = torch.tensor([[0.01]])
    both = skew_filter(torch.ones(1), x, attenuation) * skew_filter(torch.ones(1), -x, attenuation)
    torch.testing.assert_close(both, torch.ones_like(both))


def with_skew(gain, thickness_cm):
    plain = scanner()
    skew = Skew(gain, thickness_cm, ["CdTe"], plain.energies_keV)
    return plain, SpectralModel(
        plain.energies_keV,
        plain.fluence,
        plain.response,
        plain.thresholds,
        plain.attenuation,
        plain.materials,
        skew,
    )


def test_counts_of_a_model_with_skew_are_those_of_the_filtered_spectrum():
    plain, skewed = with_skew(torch.tensor([1.1, 0.9]), torch.tensor([[0.004], [-0.004]]))
    A = torch.tensor([[[5.0, 0.3], [5.0, 0.3]]])
    filtered = plain.fluence * skewed.skew()
    above = plain.response.above(plain.thresholds(), plain.energies_keV)
    spectra = (above[:-1] - above[1:]) * filtered[:, None]
    torch.testing.assert_close(skewed(A), expected_counts(A, spectra, plain.attenuation))


def test_counts_are_differentiable_in_gain_thickness_and_thresholds():
    _, model = with_skew(torch.tensor([1.1, 0.9]), torch.tensor([[0.004], [-0.004]]))
    A = torch.tensor([[8.0, 0.5], [3.0, 0.1]])
    model(A).log().sum().backward()
    for parameter in (model.skew.gain, model.skew.thickness_cm, model.thresholds.edges_keV):
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="thickness_cm"):
        Skew(torch.ones(3), torch.zeros(3, 2), ["CdTe"], ENERGIES_keV)
