"""Profiles along lines of equal totals have a minimum at every minimum of the likelihood."""

import pytest
import torch
from decomposition.test_fused import BOX, beam, drawn

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.polynomial import fit_polynomial
from pcctlearn.decomposition.profile_table_numba import EXCESS, W
from pcctlearn.decomposition.profiles import profiles, starts
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.physics.spectral_model import expected_counts

LIMITS = torch.tensor(BOX)[:, :2]


def table(S, mu, box=LIMITS):
    """Profiles of spectra (bin, energy), or of each pixel."""
    reach = fit_polynomial(S, mu).range
    S = S if S.ndim > 2 else S[None]
    return profiles(S.float(), mu.float(), reach.float(), box.float())


def minimum(counts, S, mu, start):
    """Half the deviance where Newton's method in float64 ends; infinite if it does not."""
    x, converged = decompose(
        counts, S, mu, bounds=LIMITS.tolist(), start=start.double(), warm_start=()
    )
    value = poisson_likelihood(x, counts, S, mu).value
    return torch.where(converged, value, torch.inf), x


@pytest.mark.physics
@pytest.mark.parametrize("where", ["usual", "hostile", "scatter"])
@pytest.mark.parametrize("name", ["silicon", "cdte80"])
def test_the_likeliest_of_all_minima_is_found(name, where):
    """Searches from 49 places in the box find none that is likelier."""
    lower, upper = LIMITS
    share = torch.cartesian_prod(torch.linspace(0, 1, 7), torch.linspace(0, 1, 7)).double()
    for photons, seed in ((1e3, 31), (3e4, 32)):
        counts, S, mu = drawn(name, where, photons, 40, seed)
        counts = counts[counts.sum(-1) >= 1]
        first, second, sure = starts(counts[None].float(), S[None].float(), table(S, mu))
        one, x = minimum(counts, S, mu, first)
        has_second = sure & second.isfinite().all(-1)
        other, _ = minimum(counts, S, mu, torch.where(has_second[:, None], second, first))
        found = torch.minimum(one, other)
        assert sure.double().mean() > 0.75
        assert has_second.any() or name != "silicon"
        anywhere = torch.full_like(found, torch.inf)
        for place in lower + share * (upper - lower):
            anywhere = torch.minimum(anywhere, minimum(counts, S, mu, place.expand_as(x))[0])
        assert (found <= anywhere + 1e-6)[sure].all()


@pytest.mark.parametrize("name", ["silicon", "cdte140"])
def test_the_table_has_the_expected_counts(name):
    S, mu = beam(name)
    found = table(S, mu)
    n_bins, n_nodes = len(S), found.table.shape[2]
    totals = torch.exp(found.least + found.step * torch.arange(len(found.table)).double())
    logs, excess, w = (
        torch.from_numpy(found.table[:, rows]).double() for rows in (slice(n_bins), EXCESS, W)
    )
    c = torch.linspace(*LIMITS[:, 1].double(), n_nodes).expand_as(w)
    mean = expected_counts(torch.stack([w, c], -1).reshape(-1, 2), S, mu)
    mean = mean.reshape(*w.shape, n_bins)
    inside = (w > LIMITS[0, 0] + 0.1) & (w < LIMITS[1, 0] - 0.1)
    assert 0.3 < inside.double().mean() < 1
    shares = mean / totals[:, None, None]
    seen = inside[..., None] & (shares > 1e-20)
    assert ((logs.mT - shares.log()).abs()[seen] < 2e-3).all()
    assert ((excess / totals[:, None]).abs()[inside] < 1e-3).all()
    bright = inside & (totals[:, None] > 1)
    assert ((mean.sum(-1) / totals[:, None] - 1).abs()[bright] < 2e-3).all()


def test_with_many_photons_the_start_is_the_minimum():
    counts, S, mu = drawn("silicon", "usual", 1e8, 300, 33)
    first, _, sure = starts(counts[None].float(), S[None].float(), table(S, mu))
    _, x = minimum(counts, S, mu, first)
    assert sure.all()
    error = (first - x).abs()
    assert error.median() < 2e-3
    assert error.max() < 0.5


@pytest.mark.parametrize(
    ("change", "certain"),
    [
        ("none", True),
        ("no limits", False),
        ("huge box", False),
        ("other pixels", False),
        ("nearly the same pixels", True),
    ],
)
def test_profiles_are_certain_within_a_box_of_the_same_spectra(change, certain):
    S, mu = beam("silicon")
    box = LIMITS.clone()
    if change == "no limits":
        box[0] = -torch.inf
    elif change == "huge box":
        box *= 20
    elif change == "other pixels":
        tilt = torch.linspace(-0.2, 0.2, S.shape[-1])
        S = torch.stack([S, (1 + tilt) * S])
    elif change == "nearly the same pixels":
        tilt = torch.linspace(-0.01, 0.01, S.shape[-1])
        S = torch.stack([S, 3 * (1 + tilt) * S])
    found = table(S, mu, box)
    assert found.certain == certain
    assert torch.from_numpy(found.table).isfinite().all()


def test_counts_outside_the_table_have_no_sure_start():
    S, mu = beam("silicon")
    air = S.sum(-1)
    counts = torch.stack([100 * air, air, 0 * air])
    _, _, sure = starts(counts[None].float(), S[None].float(), table(S, mu))
    assert sure.tolist() == [False, True, False]


def test_a_flat_profile_may_hide_a_minimum():
    """Silicon, 1e4 photons: minima at 0.619 and 0.607 in the half deviance, and one in between."""
    S, mu = beam("silicon")
    S = (S * 1e-2).float().double()
    counts = torch.tensor([[7.0, 3.0, 5.0, 6.0]]).double()
    values = [
        minimum(counts, S, mu, torch.tensor([place]))[0] for place in ([26.7, -0.57], [30.2, -1.3])
    ]
    assert values[1] < values[0] - 0.01
    assert starts(counts[None].float(), S[None].float(), table(S, mu)).sure.tolist() == [False]
    found = decompose(counts.float(), S.float(), mu.float(), bounds=LIMITS.tolist())
    value = poisson_likelihood(found.x.double(), counts, S, mu).value
    torch.testing.assert_close(value, values[1], rtol=0, atol=1e-6)
