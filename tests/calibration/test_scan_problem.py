"""Deviance and line integrals of an unknown object, and their derivatives in the pixels."""

import pytest
import torch
from support.plates import cdte_scanner, flawed

from pcctlearn.calibration.plate_counts import PlateModel
from pcctlearn.calibration.ring_flatness import HighPass
from pcctlearn.calibration.scan_problem import ScanProblem
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.spectral_model import expected_counts

EDGES_keV = (31.0, 37.0, 54.0, 60.0, 149.0)
PIXELS, VIEWS = 5, 8


@pytest.fixture(name="problem", scope="module")
def _problem():
    torch.set_default_dtype(torch.float64)
    nominal = cdte_scanner(EDGES_keV)
    truth = flawed(n_pixels=PIXELS, skew_cm=0.002, bias_keV=0.4, edges_keV=EDGES_keV)
    spectra = 100 * truth.spectral_model(nominal).spectra().detach()
    water = torch.linspace(1.0, 15.0, VIEWS * PIXELS).reshape(VIEWS, PIXELS)
    area = torch.stack([water, 0.05 * (15 - water)], -1)
    air = spectra.sum(-1)
    energies = nominal.energies_keV
    model = PlateModel(
        energies,
        nominal.fluence.double(),
        torch.ones(1, len(energies)),
        linear_attenuation(["CdTe"], energies),
        nominal.response,
    )
    return ScanProblem(
        expected_counts(area, spectra, nominal.attenuation),
        air,
        torch.full_like(air, 1e-4),
        model,
        nominal.attenuation.double(),
        torch.tensor(EDGES_keV[:-1]),
        100.0,
    ), truth


def of(truth):
    return torch.cat([truth.gain.log()[:, None], truth.thickness_cm, truth.thresholds_keV], -1)


def moved(theta, unknown, step):
    theta = theta.clone()
    theta[:, unknown] += step
    return theta


@pytest.mark.parametrize("unknown", range(6))
def test_derivatives_are_those_of_finite_differences(problem, unknown):
    """At the truth, where the normal matrix is the second derivative."""
    problem, truth = problem
    theta, step = of(truth), (1e-3, 1e-5, *[2e-3] * 4)[unknown]
    at = problem.decomposed(theta)
    up, down = (problem.decomposed(moved(theta, unknown, s)) for s in (step, -step))
    slope = (up.area - down.area) / (2 * step)
    scale = at.slopes[..., unknown].abs().amax()
    assert (at.slopes[..., unknown] - slope).abs().max() < 1e-3 * scale + 1e-6
    curvature = (up.misfit.gradient - down.misfit.gradient) / (2 * step)
    expected = at.misfit.normal[..., unknown]
    assert (curvature - expected).abs().max() < 1e-3 * at.misfit.normal.abs().max()
    deviance = (up.deviance + down.deviance) / (2 * step**2)
    torch.testing.assert_close(deviance, expected[:, unknown], rtol=0.02, atol=1e-2)
    air = [problem.of_air(moved(theta, unknown, s)).gradient for s in (step, -step)]
    normal = problem.of_air(theta).normal[..., unknown]
    assert ((air[0] - air[1]) / (2 * step) - normal).abs().max() < 1e-2 * normal.abs().max()


def test_the_truth_leaves_nothing_over(problem):
    problem, truth = problem
    theta = of(truth)
    at = problem.decomposed(theta)
    nominal = problem.decomposed(problem.start())
    assert at.rays.all()
    assert at.deviance.max() < 1e-6
    assert nominal.deviance.min() > 1
    assert problem.of_air(theta).gradient.abs().max() < 1e-3


def test_gain_is_seen_in_air_alone(problem):
    """Counts are relative to the air of their pixel."""
    problem, _ = problem
    at = problem.decomposed(problem.start())
    assert at.slopes[..., 0].abs().max() < 1e-12
    assert at.misfit.normal[:, 0].abs().max() < 1e-12


def test_high_pass_and_its_adjoint():
    good = torch.ones(60, dtype=torch.bool)
    good[30] = False
    H = HighPass(good, 15)
    x, y = torch.randn(2, 3, 60, 2)
    torch.testing.assert_close((H @ x * y).sum(), (x * H.adjoint(y)).sum())
    column = torch.arange(60.0)
    parabola = (2 + 0.3 * column - 0.01 * column**2)[None, :, None]
    assert (H @ parabola).abs().max() < 1e-12
    assert (H @ x)[:, [0, 6, 30, 53, 59]].abs().max() == 0
    torch.testing.assert_close(H.smooth(parabola), parabola)
