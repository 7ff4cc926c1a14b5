"""One gradient through the chain for all unknowns of a detector."""

from dataclasses import replace

import pytest
import torch
from support.phantom_scans import EDGES_keV, detector, piled_up_scan, scanner

from pcctlearn.calibration.chain_problem import ChainProblem
from pcctlearn.calibration.detector_rays import DetectorRays, RegisteredCounts
from pcctlearn.calibration.phantom_rays import phantom_rays
from pcctlearn.calibration.shared_unknowns import SharedUnknowns
from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.pileup import PileUp
from pcctlearn.physics.skew import Skew
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.scatter.over_air import ScatterOverAir
from pcctlearn.solvers.arrow import arrow_minimum

N = 8  # pixels
BASIS = ("water", "calcium")


@pytest.fixture(name="rays", scope="module")
def _rays():
    """Air and a few views of the central pixels, with noise."""
    torch.set_default_dtype(torch.float64)
    scan = piled_up_scan(24, 12, noisy=True)
    found = phantom_rays(scan, scanner(), ("CdTe",), n_fixed=0)
    pixels = slice(8, 8 + N)
    ratio = (scan.scatter[:, :, 0] / scanner().air()[:, None, None]).movedim(0, -1).movedim(0, 1)
    ratio = torch.cat([torch.zeros(24, 1, 4), ratio], 1)[pixels]
    n_views = torch.ones(13)
    area = found.area_g_cm2.movedim(0, 1)[pixels]
    return DetectorRays(found.counts[pixels], area, n_views, scan.view_s, ratio), found.model


def place(rays, shared=(18.0, 17.0, 16.0, 15.0, 60.0, 0.45)):
    """Unknowns that are off the truth: (ln k, skew, T) of the pixels, and the shared ones."""
    true = detector(24)
    T, x = true.thresholds_keV[8 : 8 + N] + 0.2, true.thickness_cm[8 : 8 + N] + 5e-4
    gain = (rays.registered[:, :1, 0] / scanner().air().sum()).log()
    return torch.cat([gain, x, T], 1), torch.tensor(shared)


def unknowns(each=True):
    return SharedUnknowns(EDGES_keV, each, True)


def problem(rays, model, each=True, start=None, weighted_at=None):
    start = place(rays)[1] if start is None else start
    settings = BASIS, torch.tensor(EDGES_keV), unknowns(each), start, weighted_at
    return ChainProblem(rays, model, *settings)


def the_chain(rays, x, shared):
    """The same detector as a ``Chain``; all five kinds of unknowns are its parameters."""
    nominal = scanner()
    edges = torch.cat([x[:, 2:], torch.full((N, 1), 149.0)], 1)
    skew = Skew(x[:, 0].exp(), x[:, 1:2], ("CdTe",), nominal.energies_keV)
    model = SpectralModel(
        nominal.energies_keV, nominal.fluence, nominal.response, Thresholds(edges),
        nominal.attenuation, list(BASIS), skew,
    )  # fmt: skip
    pair = unknowns().dead_times(shared)
    assert rays.scatter is not None
    return Chain(
        MaximumLikelihood(model),
        correct=ScatterOverAir(rays.scatter.movedim(-1, 0).movedim(-1, 1)[None], float(shared[-1])),
        linearise=PileUp(*pair, rays.view_s),
    )


def loss_of(chain, rays, layer):
    """½ Σ of the loss of ``ChainProblem`` from the stages of a chain."""
    above = rays.registered.movedim(0, 1)
    counts = torch.cat([above[..., :-1] - above[..., 1:], above[..., -1:]], -1)
    scan = chain(counts.movedim(-1, 0)[None], until="line_integrals", expect=True)
    off = scan.line_integrals[0].movedim(0, -1) - layer.known
    left = (scan.expected_counts - scan.corrected_counts)[0].movedim(0, -1)
    whitened = torch.einsum("epm,epmk->epk", off, layer.root)
    return (whitened.square().sum() + (left * layer.bin_root).square().sum()) / 2


def test_autograd_through_the_chain_is_the_gradient_of_the_fit(rays):
    data, model = rays
    x, shared = place(data)
    fit = problem(data, model)
    at = fit.equations(x, shared)
    chain = the_chain(data, x, shared)
    loss = loss_of(chain, data, fit.parts[0][2])
    torch.testing.assert_close(2 * loss.detach(), at.chi2.sum(), rtol=1e-7, atol=0)
    loss.backward()
    spectra = chain.decompose.model
    assert spectra.skew is not None
    gain = spectra.skew.gain.grad * x[:, 0].exp()
    thickness, edges = spectra.skew.thickness_cm.grad, spectra.thresholds.edges_keV.grad
    local = torch.cat([gain[:, None], thickness, edges[:, :-1]], 1)
    scale = at.local.abs().amax(0)
    torch.testing.assert_close(local / scale, at.local / scale, rtol=1e-5, atol=1e-6)
    tp, tn = chain.linearise.paralysable_s.grad, chain.linearise.nonparalysable_s.grad
    torch.testing.assert_close(1e-9 * tp, at.shared[:4], rtol=1e-5, atol=1e-5)
    tau_n = shared[4].sqrt()  # q = τ_n², at a given τ_p + τ_n
    by_q = 1e-9 * (tn - tp).sum() / (2 * tau_n)
    torch.testing.assert_close(by_q, at.shared[4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(chain.correct.amplitude.grad, at.shared[5], rtol=1e-5, atol=0)


@pytest.mark.parametrize("each", [True, False])
def test_the_gradient_agrees_with_finite_differences(rays, each):
    data, model = rays
    start = (18.0, 17.0, 16.0, 15.0, 60.0, 0.45) if each else (17.0, 60.0, 0.45)
    x, shared = place(data, start)
    counts = RegisteredCounts(
        data, model, attenuation_table(BASIS, model.energies_keV), unknowns(each)
    )
    for fit in (problem(data, model, each, shared), counts):
        at = fit.equations(x, shared)
        for k, value in enumerate(shared):
            step = torch.zeros_like(shared)
            step[k] = 1e-4 * value
            ends = [fit.equations(x, shared + sign * step).cost for sign in (1, -1)]
            slope = (ends[0] - ends[1]) / (4 * step[k])
            torch.testing.assert_close(at.shared[k], slope, rtol=1e-4, atol=1e-3)
        for k, size in enumerate((1e-5, 1e-6, 1e-3, 1e-3, 1e-3, 1e-3)):
            step = torch.zeros_like(x)
            step[:, k] = size
            ends = [fit.equations(x + sign * step, shared).chi2 for sign in (1, -1)]
            torch.testing.assert_close(
                at.local[:, k], (ends[0] - ends[1]) / (4 * size), rtol=2e-3, atol=1.0
            )


def apart(rays, model, x, shared):
    """Mean square distance of both estimates in error bars: of the pixels, and of what they share.

    Where an estimate is best, it is the relative increase of the variance of the other.
    """
    table = attenuation_table(BASIS, model.energies_keV)
    counts = RegisteredCounts(rays, model, table, unknowns())
    held = torch.zeros(6, dtype=torch.bool), shared == 0
    chain, likeliest = (
        arrow_minimum(
            lambda x, g, fit=fit: fit.equations(x, g).holding(*held),
            x, shared, lambda x, g: (x, g.clamp(min=0)),
        )
        for fit in (problem(rays, model, start=shared, weighted_at=x), counts)
    )  # fmt: skip
    assert chain.converged
    assert likeliest.converged
    error = likeliest.at.arrow.covariance()
    sd = error.of_problems().diagonal(dim1=-2, dim2=-1).sqrt()
    local = ((chain.local - likeliest.local) / sd).square().mean()
    return local, ((chain.shared - likeliest.shared) / error.shared.diagonal().sqrt())[~held[1]]


def drawn(rays, model, x, shared, seed):
    """The rays with counts of this very detector, with noise."""
    table = attenuation_table(BASIS, model.energies_keV)
    expected = RegisteredCounts(rays, model, table, unknowns()).expected(x, shared)
    bins = torch.poisson(expected, generator=torch.Generator().manual_seed(seed))
    return replace(rays, registered=bins.flip(-1).cumsum(-1).flip(-1))


def test_the_minimum_through_the_chain_is_that_of_the_likelihood_of_the_counts(rays):
    """Decomposition and what it leaves over hold all information of the counts.

    The weights of the chain leave out what its corrections add to the noise, which costs less than
    5 % of the information on the pixels. Both explain the counts, so that their distance is one
    of noise: a scatter of another spectrum would move each of them by its own error.
    """
    data, model = rays
    x, shared = place(data)
    draws = [apart(drawn(data, model, x, shared, seed), model, x, shared) for seed in range(4)]
    assert torch.stack([local for local, _ in draws]).mean() < 0.05
    assert torch.stack([of_all for _, of_all in draws]).abs().max() < 0.5


def test_without_pile_up_and_scatter_both_minima_are_the_same(rays):
    """But for the noise in the derivative of a decomposition, which many photons make small."""
    data, model = rays
    x, _ = place(data)
    x[:, 0] += 5
    nothing = torch.zeros(6)
    assert apart(drawn(data, model, x, nothing, seed=3), model, x, nothing)[0] < 1e-3


def test_expected_counts_are_corrected_to_primary_ones(rays):
    """The corrections undo what makes the registered counts."""
    data, model = rays
    x, shared = place(data)
    table = attenuation_table(BASIS, model.energies_keV)
    registered = RegisteredCounts(data, model, table, unknowns()).expected(x, shared)
    above = registered.flip(-1).cumsum(-1).flip(-1)
    primary = replace(data, registered=above).corrected(shared, unknowns())[0]
    spectra = problem(data, model).parts[0][2]
    at = torch.cat([x[:, :1] - spectra.scale.log(), x[:, 1:]], 1)
    wanted = expected_counts(spectra.known, spectra.scale * spectra.spectra(at), table)
    torch.testing.assert_close(primary.movedim(0, 1), wanted, rtol=1e-9, atol=1e-6)
