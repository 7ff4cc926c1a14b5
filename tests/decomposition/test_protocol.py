"""Protocols, their limits, and designs with less noise at equal dose."""

from dataclasses import replace

import pytest
import torch
from support.scanners import silicon

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.protocol import Protocol, ThresholdLimits
from pcctlearn.decomposition.protocol_designer import ProtocolDesigner
from pcctlearn.decomposition.sensitivity import cramer_rao_bound, poisson_estimate_covariance
from pcctlearn.physics.response.presets import cdte_monte_carlo, pairs_of
from pcctlearn.physics.spectral_model import expected_counts

LIMITS = ThresholdLimits(lowest_keV=15.0, separation_keV=4.0)
DEFAULT = Protocol(120.0, (15.0, 33.0, 45.0, 59.0))
MATERIALS = ("water", "calcium", "gadolinium")
RAYS = torch.tensor([[15.0, 1.0, 0.006], [18.0, 0.8, 0.003]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("thresholds", "allowed"),
    [
        ((15.0, 33.0, 45.0, 59.0), True),
        ((15.0, 19.0, 23.0, 116.0), True),
        ((14.0, 33.0, 45.0, 59.0), False),
        ((15.0, 18.0, 45.0, 59.0), False),
        ((15.0, 33.0, 45.0, 117.0), False),
    ],
)
def test_limits_allow_what_they_make(thresholds, allowed):
    assert LIMITS.allows(thresholds, 120.0) == allowed
    made = LIMITS.thresholds(LIMITS.inverse(thresholds, 120.0), 120.0).tolist()
    assert LIMITS.allows(made, 120.0)


def dose(energies_keV, fluence):
    """A dose that rises with the energy."""
    return (energies_keV * fluence).sum() / 40


def designer(response=None, **options):
    parts = {"limits": LIMITS, "reference": DEFAULT, "tube_filtration_cm": {"aluminium": 0.25}}
    return ProtocolDesigner(
        response or silicon(), MATERIALS, RAYS, "gadolinium", dose, **parts | options
    )


def test_any_numbers_give_thresholds_within_the_limits():
    for seed in range(20):
        u = 4 * torch.randn(5, generator=torch.Generator().manual_seed(seed)).double()
        edges = LIMITS.thresholds(u, 120.0)
        assert edges[0] >= 15
        assert (torch.cat([edges, torch.tensor([120.0])]).diff() >= 4 - 1e-9).all()


def test_thresholds_are_recovered_from_their_numbers():
    inside = (17.0, 30.0, 45.0, 70.0)
    u = LIMITS.inverse(inside, 120.0)
    assert LIMITS.thresholds(u, 120.0).tolist() == pytest.approx(inside)
    moved = LIMITS.thresholds(LIMITS.inverse((15.0, 17.0, 45.0, 70.0), 120.0), 120.0)
    assert moved.tolist() == pytest.approx([15.5, 20.0, 47.0, 71.5], abs=0.5)


def test_thresholds_that_do_not_fit_are_rejected():
    with pytest.raises(ValueError, match=r"17 thresholds.*lower separation_keV"):
        LIMITS.free_keV(17, 80.0)
    few = replace(DEFAULT, thresholds_keV=(15.0, 50.0))
    with pytest.raises(ValueError, match="3 materials need as many thresholds"):
        designer(reference=few)


def test_the_figure_of_merit_is_the_bound_at_the_dose():
    model = designer().model(DEFAULT, dose_mGy=7.0)
    assert float(dose(model.energies_keV, model.fluence)) == pytest.approx(7.0)
    bound = cramer_rao_bound(RAYS, model.spectra().detach(), model.attenuation)[:, 2, 2].mean()
    assert designer().variance(DEFAULT) / 7.0 == pytest.approx(bound.item())


def test_baselines_do_what_their_names_say():
    wide = designer().equal_widths(DEFAULT)
    assert wide.thresholds_keV == pytest.approx((15.0, 41.25, 67.5, 93.75))
    model = designer().model(designer().equal_counts(DEFAULT), dose_mGy=1.0)
    counts = model(RAYS.mean(0)[None])[0]
    assert (counts / counts.mean()).tolist() == pytest.approx([1.0] * 4, abs=0.02)


def test_a_design_beats_default_and_baselines_and_is_a_minimum():
    found = designer().minima(120.0)[0]
    least = designer().variance(found)
    others = [DEFAULT, designer().equal_widths(DEFAULT), designer().equal_counts(DEFAULT)]
    assert least < 0.9 * min(designer().variance(one) for one in others)
    for edge in range(1, 4):
        for step in (-1.0, 1.0):
            moved = [e + step * (i == edge) for i, e in enumerate(found.thresholds_keV)]
            assert designer().variance(replace(found, thresholds_keV=tuple(moved))) > least
    assert min(abs(edge - 50.2) for edge in found.thresholds_keV) < 1.5  # K edge of gadolinium


def test_minima_are_sorted_and_different():
    found = designer().minima(120.0)
    variances = [designer().variance(one) for one in found]
    assert variances == sorted(variances)
    assert len({tuple(round(edge) for edge in one.thresholds_keV) for one in found}) == len(found)
    assert DEFAULT in designer().candidates([120.0])


@pytest.mark.slow
def test_more_freedom_is_never_worse():
    some = designer().best([120.0])
    more = designer().best([120.0, 140.0])
    most = designer().best([120.0, 140.0], ["copper"])
    variances = [designer().variance(one) for one in (some, more, most)]
    assert variances[0] >= variances[1] >= variances[2]
    assert designer().load(most) <= designer().largest_load


def test_a_filter_stays_within_the_tube_load():
    tight = designer(largest_load=1.1)
    found = tight.minima(120.0, "copper")[0]
    assert 1 <= tight.load(found) <= 1.1 + 1e-6
    assert tight.minima(80.0, "copper")[0].filtration_cm == {}  # 80 kV is beyond


def test_independent_counts_have_the_bound_as_covariance():
    model = designer().model(DEFAULT, dose_mGy=3.0)
    S, mu = model.spectra().detach(), model.attenuation
    poisson = torch.diag_embed(expected_counts(RAYS, S, mu))
    found = poisson_estimate_covariance(RAYS, S, mu, poisson)
    torch.testing.assert_close(found, cramer_rao_bound(RAYS, S, mu), rtol=1e-6, atol=0)


@pytest.mark.physics
def test_correlated_counts_have_the_noise_of_their_draws():
    """Linear propagation of the covariance equals the variance of draws at many photons."""
    response = cdte_monte_carlo()
    pairs = pairs_of("cdte_monte_carlo", response)
    correlated = designer(response, pairs=pairs)
    model = correlated.model(DEFAULT, dose_mGy=1e8)
    covariance = correlated.counts_covariance(model, RAYS)
    expected = model(RAYS).detach()
    z = torch.randn(4000, 2, 4, 1, generator=torch.Generator().manual_seed(0)).double()
    counts = expected + (torch.linalg.cholesky(covariance) @ z)[..., 0]
    x = decompose(counts, model.spectra().detach(), model.attenuation).x
    sd = x[..., 2].var(0).mean().sqrt().item()
    assert sd == pytest.approx((correlated.variance(DEFAULT) / 1e8) ** 0.5, rel=0.03)
