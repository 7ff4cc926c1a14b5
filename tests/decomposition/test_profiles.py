"""Profiles along lines of equal totals have a minimum at every minimum of the likelihood."""

import pytest
import torch
from decomposition.test_fused import BOX, beam, drawn

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.polynomial import fit_polynomial
from pcctlearn.decomposition.profile_table_numba import EXCESS, W
from pcctlearn.decomposition.profiles import profile_starts, tabulated_profiles
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.physics.spectral_model import expected_counts

LIMITS = torch.tensor(BOX)[:, :2]


def table(S, mu, box=LIMITS):
    """Profiles of spectra (bin, energy), or of each pixel."""
    reach = fit_polynomial(S, mu).range
    S = S if S.ndim > 2 else S[None]
    return tabulated_profiles(S.float(), mu.float(), reach.float(), box.float())


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
    n_sure = 0
    for photons, seed in ((1e3, 31), (1e5, 32)):
        counts, S, mu = drawn(name, where, photons, 40, seed)
        counts = counts[counts.sum(-1) >= 1]
        first, second, sure = profile_starts(counts[None].float(), S[None].float(), table(S, mu))
        one, x = minimum(counts, S, mu, first)
        has_second = sure & second.isfinite().all(-1)
        other, _ = minimum(counts, S, mu, torch.where(has_second[:, None], second, first))
        found = torch.minimum(one, other)
        n_sure += int(sure.sum())
        anywhere = torch.full_like(found, torch.inf)
        for place in lower + share * (upper - lower):
            anywhere = torch.minimum(anywhere, minimum(counts, S, mu, place.expand_as(x))[0])
        assert (found <= anywhere + 1e-6)[sure].all()
        single = decompose(counts.float(), S.float(), mu.float(), bounds=LIMITS.tolist())
        value = poisson_likelihood(single.x.double(), counts, S, mu).value
        assert (value <= anywhere + 1e-6)[sure & single.converged].all()
    assert n_sure > 4


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
    first, _, sure = profile_starts(counts[None].float(), S[None].float(), table(S, mu))
    _, x = minimum(counts, S, mu, first)
    assert sure.double().mean() > 0.98
    error = (first - x).abs()[sure]
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
    behind = expected_counts(torch.tensor([[10.0, 0.5]]).double(), S, mu)[0]
    counts = torch.stack([100 * air, behind, 0 * air])
    _, _, sure = profile_starts(counts[None].float(), S[None].float(), table(S, mu))
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
    assert profile_starts(counts[None].float(), S[None].float(), table(S, mu)).sure.tolist() == [
        False
    ]
    found = decompose(counts.float(), S.float(), mu.float(), bounds=LIMITS.tolist())
    value = poisson_likelihood(found.x.double(), counts, S, mu).value
    torch.testing.assert_close(value, values[1], rtol=0, atol=1e-6)


def no_less_likely(counts, S, mu, box):
    """float32 finds what float64 finds, or a likelier minimum, within these limits."""
    limits = torch.tensor(box).tolist()
    right = decompose(counts, S, mu, bounds=limits)
    found = decompose(counts.float(), S.float(), mu.float(), bounds=limits)
    assert found.x.isfinite().all()
    both = right.converged & found.converged
    rise = poisson_likelihood(found.x.double(), counts, S, mu).value
    rise = (rise - poisson_likelihood(right.x, counts, S, mu).value)[both]
    far = ((found.x - right.x).abs() > 1e-4).any(-1)[both]
    assert both.double().mean() > 0.5
    assert (rise[far] < 1e-9).all()  # two bins may have two exact solutions


@pytest.mark.parametrize(
    ("order", "box"),
    [
        ([0, 1], [[0.0, 0.0], [20.0, 2.0]]),
        ([1, 0], [[0.0, 0.0], [2.0, 20.0]]),
        ([1, 0], [[-7.75, 12.0], [15.5, 12.75]]),
        ([1, 0], [[1.25, -5.0], [1.3125, 60.0]]),
        ([0, 1], [[12.0, -7.75], [12.75, 15.5]]),
        ([1, 0], [[-7.75, -5.0], [15.5, 60.0]]),
    ],
)
def test_limits_that_cut_the_valley_and_either_order_of_materials(order, box):
    for photons, seed in ((1e3, 41), (1e4, 42), (1e5, 43)):
        counts, S, mu = drawn("silicon", "usual", photons, 600, seed)
        no_less_likely(counts[counts.sum(-1) >= 1], S, mu[order], box)


def test_two_bins_within_limits():
    counts, S, mu = drawn("two bins", "usual", 1e6, 600, 44)
    no_less_likely(counts, S, mu, [[0.0, 0.0], [16.0, 2.0]])


def test_one_to_three_photons_at_any_dose():
    few = torch.cartesian_prod(*[torch.arange(4)] * 4).double()
    few = few[(few.sum(-1) >= 1) & (few.sum(-1) <= 3)]
    S, mu = beam("silicon")
    for photons in torch.logspace(3, 5, 9).tolist():
        no_less_likely(few, (S * (photons / 1e6)).float().double(), mu, LIMITS.tolist())


def test_a_pixel_does_not_depend_on_another_with_other_air_counts():
    """Spectra of one shape; the other pixel is dead, so that only the first has hard rays."""
    counts, S, mu = drawn("silicon", "usual", 1e3, 300, 45)
    pixels = torch.stack([S, 300 * S]).float()
    given = mu.float(), LIMITS.tolist()
    both = torch.stack([counts, 0 * counts], 1).float()
    together = decompose(both, pixels, given[0], bounds=given[1])
    alone = decompose(counts.float(), pixels[0], given[0], bounds=given[1])
    assert torch.equal(together.converged[:, 0], alone.converged)
    kept = alone.converged
    torch.testing.assert_close(together.x[kept, 0], alone.x[kept], rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", ["first is zero", "second is zero", "partly negative"])
def test_attenuation_that_is_not_positive_is_no_error(change):
    counts, S, mu = drawn("silicon", "usual", 1e4, 50, 46)
    mu = mu.clone()
    if change == "partly negative":
        mu[1, 10:20] = -1.0
    else:
        mu[int(change == "second is zero")] = 0.0
    right = decompose(counts, S, mu, bounds=LIMITS.tolist())
    found = decompose(counts.float(), S.float(), mu.float(), bounds=LIMITS.tolist())
    assert not (found.converged & ~right.converged).any()
