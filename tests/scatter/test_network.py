"""Scatter network: range of the fraction, panels of any size, and splines."""

import pytest
import torch
from support.kernels import model_with, panel

from pcctlearn.scatter.base import fraction_of
from pcctlearn.scatter.network import ScatterNetwork, spline_matrix

AIR = torch.tensor([1e4, 5e3, 2e4])


def network(rows=16, columns=24, **settings):
    torch.manual_seed(0)
    small = {"channels": (8, 8), "grid": (2, 3), "initial_scatter": 0.01} | settings
    return ScatterNetwork(panel(rows, columns), model_with(AIR), **small)


def counts(rows=16, columns=24, n_batch=2):
    transmission = 0.05 + 0.95 * torch.rand(n_batch, 3, 4, rows, columns)
    return transmission * AIR[:, None, None, None]


@pytest.mark.parametrize(("rows", "columns"), [(16, 24), (17, 29), (5, 7)])
def test_the_fraction_has_the_shape_of_the_counts(rows, columns):
    x = counts(rows, columns)
    fraction = network(rows, columns).double()(x)
    assert fraction.shape == x.shape
    assert ((fraction > 0) & (fraction < 1)).all()


def test_the_untrained_network_predicts_initial_scatter():
    x = counts()
    fraction = network(initial_scatter=0.2, predicts="fraction").double()(x)
    torch.testing.assert_close(fraction, torch.full_like(x, 0.2))
    smooth = network(initial_scatter=0.02).double()(x)
    left = (x * (1 - smooth)).detach()
    air = AIR[:, None, None, None].double()
    torch.testing.assert_close(left, x - 0.02 * air)
    assert (left > 0).all()


def test_corrected_counts_are_positive_for_any_scatter():
    ratio = torch.tensor([0.0, 0.3, 0.5, 2.0, 1e9])
    torch.testing.assert_close(fraction_of(ratio), torch.tensor([0.0, 0.3, 0.5, 0.875, 1.0]))
    x = torch.linspace(0.1, 5, 50, requires_grad=True)
    assert torch.autograd.gradcheck(fraction_of, x[x != 0.5])
    close = torch.tensor([0.5 - 1e-6, 0.5 + 1e-6], requires_grad=True)
    (slope,) = torch.autograd.grad(fraction_of(close).sum(), close)
    torch.testing.assert_close(slope, torch.ones(2), rtol=0, atol=1e-5)  # continuous slope at 0.5


def test_views_and_scans_are_independent():
    net = network().double().eval()
    torch.nn.init.normal_(net.head.weight)
    x = counts()
    whole = net(x)
    torch.testing.assert_close(net(x[1:])[0], whole[1])
    torch.testing.assert_close(net(x[:, :, 2:3])[:, :, 0], whole[:, :, 2])


def test_a_pixel_without_counts_is_finite():
    net = network().double()
    torch.nn.init.normal_(net.head.weight)
    assert net(torch.zeros(1, 3, 1, 16, 24)).isfinite().all()


def test_gradients_reach_every_parameter():
    net = network().double()
    torch.nn.init.normal_(net.head.weight)
    net(counts()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_strides_reduce_a_panel_of_256_by_384_to_the_grid():
    net = network(panel=(256, 384), grid=(8, 12), channels=(4, 4, 4, 4))
    features = net.shrink(net.encoder(torch.zeros(1, 3, 256, 384)))
    assert features.shape[-2:] == (8, 12)


@pytest.mark.parametrize(("n_fine", "n_coarse"), [(64, 8), (7, 3), (4, 4), (5, 1)])
def test_spline_weights_are_positive_and_sum_to_one(n_fine, n_coarse):
    matrix = spline_matrix(n_fine, n_coarse)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(n_fine, dtype=torch.float64))


def test_splines_are_smooth_and_reproduce_straight_lines():
    matrix, knots = spline_matrix(80, 10), torch.arange(10, dtype=torch.float64)
    line = matrix @ knots
    inner = line[12:-12]
    torch.testing.assert_close(inner.diff(), torch.full_like(inner[1:], 10 / 80))
    peak = matrix[:, 5]
    assert peak.diff().diff().abs().max() < 0.04  # a hat's kink would be 1/8


def test_an_impossible_initial_scatter_raises_an_error():
    with pytest.raises(ValueError, match=r"initial_scatter .* 1"):
        network(initial_scatter=1.0)
