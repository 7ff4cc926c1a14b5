"""Error bars of ETB-Cal hold as many pixels as those of photon noise should."""

import math
from dataclasses import replace

import pytest
import torch
from support.plates import AS_PROPOSED, cdte_scanner, flawed, plates_of

from pcctlearn.calibration.direct_inversion import direct_inversion
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.plate_counts import plate_model

PROPOSED = {"normalisation": "model", "comparison": "counts"}


def share_within(error, sd):
    return (error.abs() < sd).double().mean().item()


@pytest.mark.physics
def test_error_bars_hold_68_percent():
    truth = flawed(n_pixels=600)
    found = [EtbCal().fit(plates_of(truth, 1e8, seed), cdte_scanner()) for seed in range(4)]
    skew = torch.stack([f.thickness_cm - truth.thickness_cm for f in found])
    skew_sd = torch.stack([f.thickness_sd_cm for f in found])
    bias = torch.stack([f.thresholds_keV - truth.thresholds_keV for f in found])[..., 1]
    bias_sd = torch.stack([f.threshold_sd_keV for f in found])[..., 1]
    for error, sd in ((skew, skew_sd), (bias, bias_sd)):
        assert (error.abs() < sd).double().mean().item() == pytest.approx(0.683, abs=0.03)
        assert error.std().item() == pytest.approx(sd.square().mean().sqrt().item(), rel=0.06)


@pytest.mark.physics
def test_errors_fall_with_the_square_root_of_the_photons():
    truth = flawed(n_pixels=300)
    found = [EtbCal().fit(plates_of(truth, n, 1), cdte_scanner()) for n in (1e7, 1e9)]
    sd = [(f.thresholds_keV - truth.thresholds_keV)[:, 1].std() for f in found]
    assert (sd[0] / sd[1]).item() == pytest.approx(10, rel=0.15)


def test_direct_inversion_is_ten_times_worse_with_noise():
    truth = flawed(n_pixels=200, skew_cm=0.001, bias_keV=0.67)
    plates = plates_of(truth, 1e8, seed=1)
    found = EtbCal(**PROPOSED).fit(plates, cdte_scanner())
    rms = (found.thresholds_keV - truth.thresholds_keV)[:, 1].square().mean().sqrt()
    model = plate_model(plates, cdte_scanner(), ["CdTe"])
    for ridge in (0.0, 1e-10, 1e-8, 1e-6, 1e-4):
        direct = direct_inversion(plates.of_threshold(1), model, 60.0, ridge)[2]
        error = (direct - truth.thresholds_keV[:, 1]).square().mean().sqrt()
        assert error > 10 * rms


@pytest.mark.physics
@pytest.mark.parametrize("photons", [1e6, 1e8])
@pytest.mark.parametrize("comparison", ["ratio", "counts"])
def test_error_bars_hold_68_percent_of_pixels_drawn_from_the_prior(photons, comparison):
    """Thicknesses and photon noise are normal, and so is the posterior of a nearly linear problem.

    Counts relative to the sum over the pixels do not determine what all pixels share.
    """
    prior_cm = {"CdTe": 0.002, "aluminium": 0.05}
    truth = flawed(n_pixels=1500, bias_keV=0.3)
    drawn = torch.randn(1500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    thickness = drawn * torch.tensor([*prior_cm.values()])
    truth = replace(truth, thickness_cm=thickness, materials=tuple(prior_cm))
    found = EtbCal([*prior_cm], comparison=comparison, prior_cm=prior_cm).fit(
        plates_of(truth, photons, seed=1), cdte_scanner()
    )
    assert found.calibrated.all()
    skew = found.thickness_cm - truth.thickness_cm
    bias = (found.thresholds_keV - truth.thresholds_keV)[:, 1]
    if comparison == "counts":
        bias = bias - bias.mean()
    for error, sd in (
        (skew[:, 0], found.thickness_sd_cm[:, 0]),
        (skew[:, 1], found.thickness_sd_cm[:, 1]),
        (bias, found.threshold_sd_keV[:, 1]),
    ):
        assert share_within(error, sd) == pytest.approx(0.683, abs=0.03)


@pytest.mark.physics
@pytest.mark.parametrize("photons", [5e3, 1e5])
def test_few_photons_determine_pixels_relative_to_one_another(photons):
    """A last step is small in standard errors, however far all thresholds have moved together."""
    truth = flawed(n_pixels=1500, bias_keV=0.67)
    found = EtbCal(**PROPOSED).fit(plates_of(truth, photons, seed=1), cdte_scanner())
    assert found.calibrated.all()
    error = (found.thresholds_keV - truth.thresholds_keV)[:, 1]
    within = share_within(error - error.mean(), found.threshold_sd_keV[:, 1])
    assert within == pytest.approx(0.683, abs=0.03)


@pytest.mark.physics
@pytest.mark.parametrize(("photons", "most"), [(1e7, 0.67), (1e8, 0.58), (1e9, 0.4)])
def test_as_proposed_an_error_without_noise_adds_to_the_error_bars(photons, most):
    """Its variance s² is that of expected counts: |z| √(σ² + s²) < σ in so many pixels."""
    truth = flawed(n_pixels=600, bias_keV=0.67)

    def fitted(seed):
        found = EtbCal(**AS_PROPOSED).fit(plates_of(truth, photons, seed), cdte_scanner())
        error = (found.thresholds_keV - truth.thresholds_keV)[:, 1]
        return found, error - error.mean()

    s = fitted(None)[1].std().item()
    draws = [fitted(seed) for seed in range(2)]
    sd = torch.stack([found.threshold_sd_keV[:, 1] for found, _ in draws])
    expected = math.erf((2 * (1 + s**2 / sd.square().mean().item())) ** -0.5)
    assert share_within(torch.stack([error for _, error in draws]), sd) == pytest.approx(
        expected, abs=0.03
    )
    assert expected < most
