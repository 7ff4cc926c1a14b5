"""Compiled minima of float32: as in float64, or likelier, for every ray of every beam."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from support.plates import cdte_scanner
from support.scanners import FOUR_BINS, SIX_BINS, scanner

from pcctlearn.decomposition import fused
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood, decompose
from pcctlearn.decomposition.minima import WARM_START
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.response.presets import cdte_monte_carlo
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Solution

BOX = [[-5.0, -7.75, -2.0], [60.0, 15.5, 2.0]]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
RANGES = {  # of water, calcium and iodine in g/cm², and the largest scatter over primary
    "usual": ([0.0, 0.0, 0.0], [30.0, 3.0, 0.05], 0.0),
    "thin": ([-1.0, -0.3, 0.0], [3.0, 3.0, 0.05], 0.0),
    "hostile": ([-5.0, -5.0, -0.2], [60.0, 10.0, 1.0], 0.0),
    "scatter": ([0.0, 0.0, 0.0], [30.0, 3.0, 0.05], 0.33),
}


@cache
def beam(name):
    """Spectra at 1e6 photons and attenuation in float64, exact in float32."""
    if name == "silicon":
        model = scanner()
    elif name == "iodine":
        model = scanner(("water", "calcium", "iodine"), SIX_BINS)
    elif name == "two bins":
        model = scanner(edges_keV=[15.0, 50.0, 120.0])
    elif name == "cdte":
        model = cdte_scanner()
    else:
        kV = int(name.removeprefix("cdte"))
        edges = {80: [20.0, 35.0, 50.0, 65.0, 80.0], 140: [20.0, 45.0, 65.0, 90.0, 140.0]}[kV]
        tube = Spectrum.tungsten(float(kV), {"aluminium": 0.25}, photons_per_pixel=1e6)
        model = SpectralModel.from_parts(
            tube, cdte_monte_carlo(), Thresholds(edges), ["water", "calcium"]
        )
    return tuple(t.detach().float().double() for t in (model.spectra(), model.attenuation))


def drawn(name, where, photons, n, seed):
    """Counts and spectra of random rays that reach the detector with 20 times the air at most."""
    S, mu = beam(name)
    S = (S * (photons / 1e6)).float().double()
    generator = torch.Generator().manual_seed(seed)
    low, high, scatter = RANGES[where]
    low, high = (torch.tensor(side[: len(mu)]) for side in (low, high))
    A = low + (high - low) * torch.rand(n, len(mu), generator=generator)
    mean = expected_counts(A, S, mu)
    mean = mean[(mean <= 20 * S.sum(-1)).all(-1)]
    share = scatter * torch.rand(len(mean), 1, generator=generator)
    mean = mean + share * mean.mean(-1, keepdim=True)
    return draw_counts(mean, generator).float().double(), S, mu


def solved(counts, S, mu, dtype, device="cpu", **more):
    bounds = [side[: len(mu)] for side in BOX]
    found = decompose(*(t.to(device, dtype) for t in (counts, S, mu)), bounds=bounds, **more)
    return Solution(*(t.cpu() for t in found))


def stays(x, counts, S, mu, bounds=None):
    """Whether Newton's method in float64 stays at x: a minimum that its own starts may miss."""
    bounds = bounds or [side[: len(mu)] for side in BOX]
    again = decompose(counts, S, mu, bounds=bounds, start=x.double(), warm_start=())
    return again.converged & ((again.x - x).abs() <= 1e-4).all(-1)


@pytest.mark.physics
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("where", RANGES)
@pytest.mark.parametrize("name", ["silicon", "cdte80", "cdte140", "iodine"])
def test_every_ray_is_as_in_float64_or_likelier(name, where, device):
    for photons, seed in ((1e3, 7001), (1e5, 7002), (1e7, 7003)):
        counts, S, mu = drawn(name, where, photons, 400, seed)
        expected = solved(counts, S, mu, torch.float64)
        found = solved(counts, S, mu, torch.float32, device)
        only = found.converged & ~expected.converged
        assert stays(found.x[only], counts[only], S, mu).all()
        far = found.converged & ((found.x.double() - expected.x).abs().amax(-1) > 1e-4)

        def value(x, of=far, n=counts, spectra=S, table=mu):
            return poisson_likelihood(x[of].double(), n[of], spectra, table).value

        assert (value(found.x) < value(expected.x)).all()
        assert far.sum() <= 0.01 * len(counts)


@pytest.mark.physics
@pytest.mark.parametrize("bounds", [[[0.0, 0.0], [60.0, 6.0]], BOX], ids=["of objects", "wide"])
@pytest.mark.parametrize("name", ["silicon", "cdte80", "cdte140"])
def test_dim_rays_are_as_in_float64_or_likelier(name, bounds):
    """Up to 60 g/cm² of water and 6 g/cm² of calcium, and fewer than 200 photons in all bins."""
    S, mu = beam(name)
    bounds = [side[:2] for side in bounds]
    generator = torch.Generator().manual_seed(8301)
    for photons in (1e3, 1e4, 1e5, 1e6):
        dim = (S * (photons / 1e6)).float().double()
        A = torch.tensor([60.0, 6.0]) * torch.rand(16_000, 2, generator=generator)
        counts = draw_counts(expected_counts(A, dim, mu), generator).float().double()
        counts = counts[(counts.sum(-1) < 200) & (counts.sum(-1) > 0)]
        assert len(counts) > 5000
        expected = decompose(counts, dim, mu, bounds=bounds)
        found = decompose(*(t.float() for t in (counts, dim, mu)), bounds=bounds)
        only = found.converged & ~expected.converged
        assert stays(found.x[only], counts[only], dim, mu, bounds).all()

        def value(x, n=counts, spectra=dim, table=mu):
            return poisson_likelihood(x.double(), n, spectra, table).value

        rise = (value(found.x) - value(expected.x))[found.converged & expected.converged]
        assert rise.max() < 1e-8  # rounding of x
        assert len(rise) > 0.99 * len(counts)


def test_as_many_bins_as_materials_are_fitted_exactly_in_both_precisions():
    """Two line integrals may explain the counts of two bins, and either precision finds one."""
    for photons, seed in ((1e3, 8302), (1e5, 8303), (1e7, 8304)):
        counts, S, mu = drawn("two bins", "usual", photons, 4000, seed)
        expected = decompose(counts, S, mu)
        found = decompose(*(t.float() for t in (counts, S, mu)))
        assert (found.converged == expected.converged).double().mean() > 0.995
        both = found.converged & expected.converged
        assert both.double().mean() > 0.5
        far = both & ((found.x.double() - expected.x).abs().amax(-1) > 1e-4)
        for x in (found.x, expected.x):
            misfit = poisson_likelihood(x[far].double(), counts[far], S, mu).value
            assert (misfit < 1e-5).all()  # as 2e-5 g/cm² from an exact solution at 1e7 photons
        # the other solution is as exact where both precisions begin at it
        again = decompose(counts[far], S, mu, start=found.x[far].double())
        assert again.converged.all()
        torch.testing.assert_close(again.x, found.x[far].double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("photons", "least"), [(1e3, 0.5), (1e5, 0.95), (1e7, 0.99)])
def test_most_rays_are_solved_in_float32_at_once(monkeypatch, photons, least):
    """Of rays with ten photons or more; with few, lines of equal totals meet limits."""
    counts, S, mu = drawn("silicon", "usual", photons, 2000, 7004)
    counts = counts[counts.sum(-1) >= 10]
    shares = []

    def counting(*arguments):
        found = fused.easy_minima(*arguments)
        shares.append(found[0].converged.double().mean())
        return found

    monkeypatch.setattr("pcctlearn.decomposition.compiled_minima.easy_minima", counting)
    solved(counts, S, mu, torch.float32)
    assert shares[0] > least


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("each_pixel", [False, True], ids=["shared", "of each pixel"])
@pytest.mark.parametrize("name", ["silicon", "iodine"])
def test_gradients_in_counts_spectra_and_attenuation(name, each_pixel, device):
    """For any counts, air without a photon among them, which pass no gradient.

    Energies without photons, in one bin or all, have gradients as others do.
    """
    counts, S, mu = drawn(name, "usual", 1e6, 300, 8105)
    S = S.clone()
    S[:, 30], S[0, 45], S[-1, 60:64] = 0, 0, 0
    assert (S == 0).any(1).all()
    counts = counts[: len(counts) // 3 * 3]
    counts[5] = 0
    if each_pixel:
        counts = counts.reshape(-1, 3, counts.shape[-1])
        S = torch.stack([S, 1.02 * S, 0.98 * S]).float().double()
    cotangent = torch.randn(*counts.shape[:-1], len(mu), generator=torch.Generator().manual_seed(1))
    found = []
    for place in (("cpu", torch.float64), (device, torch.float32)):
        leaves = [t.detach().to(*place, copy=True).requires_grad_() for t in (counts, S, mu)]
        bounds = [side[: len(mu)] for side in BOX]
        x = decompose(*leaves, bounds=bounds).x
        x.backward(cotangent.to(*place))
        found.append([leaf.grad.double().cpu() for leaf in leaves])
    for right, single in zip(*found, strict=True):
        assert ((single - right).abs() <= 1e-4 * right.abs().amax(-1, keepdim=True)).all()


def test_gradients_of_three_materials_that_are_hard_to_tell_apart():
    """Their Hessian is so badly conditioned that float32 would lose the fourth digit."""
    counts, S, mu = drawn("iodine", "usual", 1e6, 3000, 8106)
    found = []
    for dtype in (torch.float64, torch.float32):
        leaf = counts.to(dtype, copy=True).requires_grad_()
        x, _ = decompose(leaf, S.to(dtype), mu.to(dtype), bounds=BOX)
        generator = torch.Generator().manual_seed(1)
        x.backward(torch.randn(x.shape, generator=generator).to(dtype))
        found.append((x.detach().double(), leaf.grad.double()))
    (x, right), (other, single) = found
    same = (x - other).abs().amax(-1) < 1e-4
    assert same.double().mean() > 0.99
    close = (single - right).abs() <= 5e-5 * right.abs().amax(-1, keepdim=True)
    assert close[same].all()


def test_a_copy_of_a_layer_is_compiled_too(monkeypatch):
    """With the solver that configurations name, also where rays are solved in double precision."""
    calls = []
    for name in ("easy_minima", "hard_minima"):
        function = getattr(fused, name)
        monkeypatch.setattr(
            f"pcctlearn.decomposition.compiled_minima.{name}",
            lambda *given, f=function, name=name: calls.append(name) or f(*given),
        )
    layer = deepcopy(MaximumLikelihood(scanner().float(), DampedNewton()))
    counts = drawn("silicon", "usual", 3e3, 300, 7011)[0].float()
    layer(counts.T[None, :, None])
    assert calls == ["easy_minima", "hard_minima"]


def test_only_the_gradients_that_are_wanted():
    counts, S, mu = (t.float() for t in drawn("silicon", "usual", 1e6, 70, 7009))
    for wanted in range(3):
        leaves = [t.clone() for t in (counts, S, mu)]
        leaves[wanted].requires_grad_()
        decompose(*leaves).x.sum().backward()
        assert leaves[wanted].grad.isfinite().all()
        assert sum(leaf.grad is not None for leaf in leaves) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_rays_in_double_precision(device):
    """Few photons, a box that many rays reach, and air without a photon."""
    counts, S, mu = drawn("silicon", "usual", 2e3, 200, 7010)
    counts = counts[: len(counts) // 2 * 2].reshape(-1, 2, 4)
    own = torch.stack([S, 1.03 * S]).float().double()
    bounds = [[0.0, 0.0], [25.0, 2.0]]
    found = []
    for place, warm_start in (
        (("cpu", torch.float64), WARM_START),
        ((device, torch.float32), None),
    ):
        leaves = [t.detach().to(*place, copy=True).requires_grad_() for t in (counts, own, mu)]
        x, converged = decompose(*leaves, bounds=bounds, warm_start=warm_start)
        cotangent = torch.linspace(-1, 1, x.numel()).reshape(x.shape)
        x.backward(cotangent.to(x))
        found.append([x.detach(), converged, *(leaf.grad for leaf in leaves)])
    (x, converged, *right), (other, also, *single) = ([t.cpu() for t in side] for side in found)
    assert torch.equal(converged, also)
    lower, upper = (torch.tensor(side) for side in bounds)
    at_limit = ((x <= lower) | (x >= upper)).any(-1)[converged]
    assert 0.1 < at_limit.double().mean() < 0.9
    assert ((x - other).abs()[converged] <= 1e-4).all()
    for one, two in zip(right, single, strict=True):
        assert ((two.double() - one).abs() <= 1e-4 * one.abs().amax(-1, keepdim=True)).all()


@pytest.mark.parametrize("device", DEVICES)
def test_spectra_of_each_column_equal_a_loop_over_columns(device):
    counts, S, mu = drawn("silicon", "usual", 1e6, 60, 7006)
    skew = torch.linspace(-0.05, 0.05, S.shape[-1])
    own = torch.stack([S * (1 + factor * skew) for factor in (-1.0, 0.0, 1.0)]).float().double()
    columns = counts[:, None].expand(-1, 3, -1)
    together = solved(columns, own, mu, torch.float32, device)
    for column in range(3):
        alone = solved(
            columns[:, column : column + 1], own[column : column + 1], mu, torch.float32, device
        )
        # the polynomial of the start is fitted to the mean of all spectra
        torch.testing.assert_close(together.x[:, column], alone.x[:, 0], rtol=0, atol=2e-5)
        assert torch.equal(together.converged[:, column], alone.converged[:, 0])


@pytest.mark.parametrize("device", DEVICES)
def test_a_ray_does_not_depend_on_its_neighbours(device):
    counts, S, mu = drawn("silicon", "hostile", 1e6, 500, 7007)
    whole = solved(counts, S, mu, torch.float32, device)
    for some in (slice(0, 1), slice(3, 80), slice(100, None, 7)):
        part = solved(counts[some], S, mu, torch.float32, device)
        assert torch.equal(part.x, whole.x[some])
        assert torch.equal(part.converged, whole.converged[some])


@pytest.mark.parametrize("change", ["float64", "half", "one bin only", "no rays", "four bins"])
def test_other_inputs(change):
    counts, S, mu = drawn("silicon", "usual", 1e6, 70, 7008)
    if change == "half":
        x = solved(counts, S, mu, torch.float32, adjoint="implicit").x
        again = decompose(counts.half().clamp(max=6e4).float(), S.float(), mu.float())
        assert again.x.isfinite().all()
        assert x.isfinite().all()
    elif change == "no rays":
        assert solved(counts[:0], S, mu, torch.float32).x.shape == (0, 2)
    elif change == "one bin only":
        only = solved(counts[:, :1], S[:1], mu[:1], torch.float32)
        both = solved(counts[:, :1], S[:1], mu[:1], torch.float64)
        assert torch.equal(only.converged, both.converged)
        torch.testing.assert_close(only.x.double(), both.x, rtol=0, atol=1e-4)
    else:
        dtype = torch.float64 if change == "float64" else torch.float32
        strided = counts.T.contiguous().T
        assert torch.equal(solved(strided, S, mu, dtype).x, solved(counts, S, mu, dtype).x)


def test_four_bins_of_the_scanner_are_those_of_the_beam():
    assert len(FOUR_BINS) - 1 == beam("silicon")[0].shape[0]
