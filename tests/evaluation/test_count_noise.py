"""The covariance of prepared counts: gains, pile-up and scatter correction of photons."""

from functools import partial

import pytest
import torch
from support.kernels import kernels
from support.scanners import FOUR_BINS, scanner

from pcctlearn.evaluation.count_noise import count_covariance, counted_together, scaled_covariance
from pcctlearn.physics.pileup import PileUp
from pcctlearn.physics.response.pairs import bin_covariance
from pcctlearn.physics.response.presets import pairs_of
from pcctlearn.scatter.kernel import KernelScatter
from pcctlearn.scatter.network import ScatterNetwork
from pcctlearn.scatter.uniform import UniformScatter
from pcctlearn.shapes import channels_first, channels_last
from pcctlearn.tomography.geometry.cone import ConeBeam

BEAM = ConeBeam(3, 24, 32, 1.2, 62.5, 109.7)


def counts_behind_water(photons=2e5, edges_keV=FOUR_BINS):
    """Expected counts (1, bin, view, row, column) behind 0 … 20 cm of water, and the model."""
    model = scanner(edges_keV=edges_keV, photons=photons)
    water = torch.linspace(0, 20, BEAM.n_columns).expand(1, *BEAM.shape)
    rays = torch.stack([water, 0.02 * water], -1)
    return channels_first(model(rays)).detach(), model


def generator():
    return torch.Generator().manual_seed(0)


def test_a_gain_is_squared():
    n, _ = counts_behind_water()
    gain = torch.tensor([1.3, 0.8, 1.0, 2.0])[:, None, None, None]
    found = count_covariance(lambda c: gain * c, n, generator())
    torch.testing.assert_close(found, scaled_covariance(gain, n), rtol=1e-6, atol=1e-6)


def test_pile_up_correlates_bins_as_its_derivative_says():
    n, _ = counts_behind_water()
    pile_up = PileUp([5e-8] * 4, [4e-8, 4e-8, 6e-8, 6e-8], time_s=0.05).requires_grad_(False)

    def linear(counts):
        return channels_first(pile_up.corrected(channels_last(counts))[0])

    rays = channels_last(n).reshape(-1, 4).requires_grad_()
    corrected, _ = pile_up.corrected(rays)
    rows = [torch.autograd.grad(c.sum(), rays, retain_graph=True)[0] for c in corrected.unbind(-1)]
    J = torch.stack(rows, -2)
    wanted = (J * rays.detach()[:, None]) @ J.mT
    found = count_covariance(linear, n, generator()).reshape(-1, 4, 4)
    assert (wanted[:, 0, 1].abs() > 0.01 * wanted[:, 0, 0]).any()
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=1e-4 * float(wanted.amax()))


def test_scatter_that_is_subtracted_leaves_the_noise_of_all_counts():
    """The corrected counts have the variance of the measured ones, not their own."""
    n, model = counts_behind_water()
    correct = UniformScatter(BEAM, model)
    correct.scatter_over_air.fill_(0.0007)
    removed = correct(n)
    assert 0.2 < removed.max() < 0.5
    found = count_covariance(lambda c: c * (1 - correct(c)), n, generator())
    poisson = scaled_covariance(torch.ones(4, 1, 1, 1), n)
    torch.testing.assert_close(found, poisson, rtol=1e-5, atol=1e-3)


def test_bins_without_counts_have_no_variance():
    n, _ = counts_behind_water()
    n[:, 1, :, :, 20:] = 0
    found = count_covariance(lambda c: 0.9 * c, n, generator())
    assert found.isfinite().all()
    assert (found[:, :, :, 20:, 1] == 0).all()


def network(model, predicts, initial):
    torch.manual_seed(1)
    correct = ScatterNetwork(BEAM, model, (6, 6), (2, 3), initial, predicts).eval()
    torch.nn.init.normal_(correct.head.weight, std=0.2)
    return correct


CORRECTIONS = {  # thresholds and correction
    "network": (FOUR_BINS, partial(network, predicts="scatter", initial=0.001)),
    "network of the fraction": (FOUR_BINS, partial(network, predicts="fraction", initial=0.3)),
    "kernels": ([15.0, 50.0, 120.0], lambda model: KernelScatter(BEAM, model, kernels(), 0.2)),
}


@pytest.mark.physics
@pytest.mark.parametrize("name", CORRECTIONS)
@torch.no_grad()
def test_it_is_the_covariance_of_repeated_corrected_counts(name):
    """400 draws; the estimate of the scatter changes with the noise, and with that of a bin.

    The kernels take the scatter of all bins from the highest one, which correlates the bins.
    """
    edges_keV, build = CORRECTIONS[name]
    n, model = counts_behind_water(edges_keV=edges_keV)
    correct, draw = build(model), generator()
    fraction = correct(n)
    assert 0.2 < fraction.max() < 0.8

    def corrected(counts):
        return counts * (1 - correct(counts))

    deviations = torch.cat([corrected(torch.poisson(n, draw)) for _ in range(400)]).double()
    deviations = channels_last(deviations - deviations.mean(0))
    found = count_covariance(corrected, n, draw)[0]
    repeated = torch.einsum("nvrcb,nvrcd->vrcbd", deviations, deviations) / 399
    sd = repeated.diagonal(dim1=-2, dim2=-1).sqrt()
    error = (found - repeated) / (sd[..., None] * sd[..., None, :])
    # each column of the panel: 72 rays of 400 draws, a standard error of 0.8 %
    torch.testing.assert_close(
        error.mean((0, 1)),
        torch.zeros(BEAM.n_columns, *[len(edges_keV) - 1] * 2),
        rtol=0,
        atol=0.04,
    )
    if name == "kernels":
        assert (found / sd[..., None] / sd[..., None, :])[..., 0, 1].max() > 0.05


def test_photons_counted_twice_correlate_the_measured_counts():
    """Λ at the estimated line integrals, per measured count, carried like Poisson noise."""
    n, model = counts_behind_water()
    pairs, water = pairs_of("silicon_monte_carlo"), torch.tensor([[[8.0, 0.1]]])
    lines = channels_first(water.expand(1, *BEAM.shape, 2))
    per_expected = torch.full_like(n, 0.5)
    together = counted_together(pairs, model, lines, per_expected)
    assert together.shape == (1, *BEAM.shape, 4, 4)
    left = model.fluence * torch.exp(-water @ model.attenuation)[0, 0]
    edges = model.thresholds.edges_keV.detach()
    once = bin_covariance(model.response, pairs, edges, model.energies_keV, left)
    mean = model(water).detach()[0, 0]
    torch.testing.assert_close(together[0, 1, 2, 3], 0.5 * (once - torch.diag(mean)).detach())
    gain = torch.tensor([1.3, 0.8, 1.0, 2.0])[:, None, None, None]
    added = [
        with_pairs - without
        for with_pairs, without in (
            (scaled_covariance(gain, n, together), scaled_covariance(gain, n)),
            (
                count_covariance(lambda c: gain * c, n, generator(), together),
                count_covariance(lambda c: gain * c, n, generator()),
            ),
        )
    ]
    torch.testing.assert_close(added[0], added[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        added[0][..., 0, 3], 1.3 * 2.0 * together[..., 0, 3], rtol=1e-4, atol=1e-4
    )
