"""Kernel superposition: sums by hand, round trip, fit, and simulated scans."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from support.kernels import VALUES, kernels, model_with, panel, summed_by_hand
from support.scanners import scanner

from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.phantoms.heads import head
from pcctlearn.physics.response.table import Table
from pcctlearn.scan import Scan
from pcctlearn.scatter.kernel import KernelScatter
from pcctlearn.scatter.pencil_beams import fit_kernels
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

SILICON = Path(__file__).parents[2] / "data/physics/response/silicon_60mm.csv"
AIR = torch.tensor([1000.0, 400.0], dtype=torch.float64)
PIXEL_cm = (1.0, 1.5)


def method(air=AIR, pixel_cm=PIXEL_cm, offset_cm=(0.0, 0.0), **settings):
    beam = panel(pixel_cm=pixel_cm, row_offset_cm=offset_cm[0], offset_cm=offset_cm[1])
    return KernelScatter(beam, model_with(air), kernels(), **settings)


def known(counts, fraction):
    """Scans with a batch of one."""
    pairs = zip(counts.split(1), fraction.split(1), strict=True)
    return [Scan(counts=n, scatter_fraction=f) for n, f in pairs]


def transmissions(*shape, least=0.02):
    """Transmissions of the highest bin, of thick to thin objects."""
    return least + (0.98 - least) * torch.rand(*shape)


def counts_of(kernel, primary, lower=0.3):
    """Counts (batch, 2, …) with scatter by the same kernels, and its fraction."""
    spr = kernel.spr(primary)
    both = torch.stack([lower * primary, primary], 1) * kernel.air
    return both * (1 + spr), spr / (1 + spr)


def test_an_open_beam_has_no_scatter():
    for air in (AIR, 50 + 100 * torch.rand(2, 4, 5)):
        kernel = method(air)
        counts = kernel.air.expand(3, 2, 2, 4, 5)
        assert not kernel(counts).any()


def test_the_fraction_is_finite_and_in_its_range():
    counts = AIR[:, None, None, None] * torch.rand(2, 2, 3, 6, 7) ** 4
    counts[0, :, 0, 2:4] = 0.0  # no counts
    counts[1, :, 1] *= 3  # more than the open beam
    fraction = method(grid_transmission=20.0)(counts)
    assert fraction.isfinite().all()
    assert fraction.min() >= 0
    assert fraction.max() == pytest.approx(0.95)


@pytest.mark.parametrize("gamma", [0.0, 0.02])
def test_scatter_is_the_sum_over_all_pixels(gamma):
    primary = transmissions(4, 5)
    kernel = method(edge_weight=1.0, gamma_per_cm=gamma)
    water = torch.stack([0.3 * primary + 0.7 * primary**1.5, primary])
    scatter = kernel.spr(primary[None, None])[0, :, 0] * water
    torch.testing.assert_close(scatter, summed_by_hand(primary, PIXEL_cm, gamma))


def test_the_scatter_of_a_single_pixel_is_its_kernel():
    primary = torch.ones(1, 1, 9, 11)
    primary[..., 4, 5] = 0.2  # 8 cm of water: the second group
    scatter = method(edge_weight=1.0, gamma_per_cm=0.0).spr(primary)[0, 1, 0]
    A, alpha, beta, s1, B, s2 = (VALUES[name][1][1] for name in list(VALUES)[:-1])
    depth = -np.log(0.2)
    c = A * 0.2 ** (1 + alpha) * depth * (depth + 1e-3) ** (beta - 1) * np.prod(PIXEL_cm)
    squared = torch.tensor([0.0, 4.0, 4 * 1.5**2])
    flux = (1 + squared / 110.0**2) ** -1.5
    g = torch.exp(-squared / (2 * s1**2)) + B * torch.exp(-squared / (2 * s2**2))
    beside = torch.stack([scatter[4, 5] * 0.2, scatter[6, 5], scatter[4, 7]])
    torch.testing.assert_close(beside, c * g / flux)


def test_scatter_does_not_wrap_around_at_the_edges_of_the_panel():
    small = transmissions(1, 1, 6, 7)
    large = torch.ones(1, 1, 12, 16)
    large[..., :6, :7] = small
    kernel = method(edge_weight=1.0)
    kernel_of_corner = method(edge_weight=1.0, offset_cm=(-3.0, -6.75))
    inside = kernel.spr(large)[..., :6, :7]
    torch.testing.assert_close(kernel_of_corner.spr(small), inside)
    far = kernel.spr(large)[0, :, 0]
    assert (far[:, -1, -1] < far[:, 6, 7]).all()


def test_scatter_is_independent_of_the_pixel_size():
    coarse = transmissions(1, 1, 8, 8)
    fine = coarse.repeat_interleave(2, -2).repeat_interleave(2, -1)
    spr = method(pixel_cm=0.5).spr(fine)
    averaged = torch.nn.functional.avg_pool2d(spr[:, :, 0], 2)[:, :, None]
    torch.testing.assert_close(averaged, method(pixel_cm=1.0).spr(coarse), rtol=0.02, atol=0)


def test_the_edge_weight_reduces_scatter_at_edges_only():
    primary = torch.ones(1, 1, 21, 41)
    primary[..., 20:] = 0.1
    whole, weighed = (
        method(pixel_cm=1.0, edge_weight=w, edge_cm=3.0).spr(primary) for w in (1.0, 0.5)
    )
    ratio = (weighed / whole)[0, 1, 0, 10]
    assert (ratio[20:].diff() > 0).all()
    assert ratio[20] < 0.9
    assert ratio[-1] == pytest.approx(1.0, abs=0.02)


def test_round_trip():
    kernel = method(n_iterations=40)
    counts, expected = counts_of(kernel, transmissions(2, 3, 8, 9))
    assert expected.max() > 0.2
    torch.testing.assert_close(kernel(counts), expected)
    few = method()(counts)
    assert (few - expected).abs().max() < 0.002


def test_batch_and_views_are_independent_and_precision_is_kept():
    kernel = method()
    counts, _ = counts_of(kernel, transmissions(2, 3, 5, 6))
    whole = kernel(counts)
    for i in range(2):
        for view in range(3):
            part = slice(i, i + 1), slice(None), slice(view, view + 1)
            torch.testing.assert_close(kernel(counts[part]), whole[part])
    single = kernel(counts.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), whole, rtol=1e-4, atol=1e-5)


def test_gradient_in_the_counts():
    kernel = method(n_iterations=3, gamma_per_cm=0.01)
    counts, _ = counts_of(kernel, transmissions(1, 1, 3, 4, least=0.1))
    assert torch.autograd.gradcheck(kernel, counts.requires_grad_())
    open_beam = kernel.air.expand(1, 2, 1, 3, 4).clone().requires_grad_()
    (slope,) = torch.autograd.grad(kernel(open_beam).sum(), open_beam)
    assert slope.isfinite().all()


def test_amplitudes_are_fitted_to_known_scatter():
    true = method(grid_transmission=[0.3, 0.4])
    counts, share = counts_of(true, transmissions(3, 2, 6, 7))
    kernel = method(n_iterations=40)
    numbers = kernel.fit(known(counts, share), dict)
    assert list(numbers) == ["grid_transmission_bin_1", "grid_transmission_bin_2"]
    assert list(numbers.values()) == pytest.approx([0.3, 0.4])
    torch.testing.assert_close(kernel(counts), share)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"air": torch.ones(3)}, "air .* 2 bins"),
        ({"air": torch.tensor([1.0, 0.0])}, "air .*positive"),
        ({"grid_transmission": -1.0}, "grid_transmission"),
        ({"grid_transmission": [1.0, 1.0, 1.0]}, "grid_transmission"),
        ({"n_iterations": 10**9}, "n_iterations .* 1000000000"),
        ({"edge_weight": 1.5}, "edge_weight .* 1.5"),
        ({"relaxation": 0.0}, "relaxation .* 0"),
    ],
)
def test_impossible_settings_raise_an_error(settings, words):
    with pytest.raises(ValueError, match=words):
        method(**settings)


def test_impossible_counts_raise_an_error():
    kernel, counts = method(), torch.ones(1, 2, 1, 3, 4)
    for wrong in (float("nan"), -1.0):
        bad = counts.clone()
        bad[0, 1, 0, 1, 1] = wrong
        with pytest.raises(ValueError, match="1 are not"):
            kernel(bad)
    with pytest.raises(ValueError, match=r"2 bins .*any panel"):
        kernel(torch.ones(1, 3, 1, 3, 4))
    with pytest.raises(ValueError, match="a panel of"):
        method(torch.ones(2, 4, 4))(counts)
    with pytest.raises(ValueError, match="scatter_fraction"):
        kernel.fit(known(counts, 2 * counts), dict)
    with pytest.raises(ValueError, match="no object"):
        kernel.fit(known(kernel.air.expand(1, 2, 1, 3, 4), torch.zeros(1, 2, 1, 3, 4)), dict)


WIDE_PANEL = ConeBeam(1, 64, 96, 0.48, 62.5, 109.7)


@cache
def silicon_kernels():
    model = scanner(response=Table.from_file(SILICON))
    return model, fit_kernels(WIDE_PANEL, model)


def cylinder():
    """16 cm of water, 24 cm long."""
    grid = VolumeGrid(60, 60, 60, 0.4)
    axis = torch.from_numpy((np.arange(60) - 29.5) * 0.4)
    disc = (axis**2 + axis[:, None] ** 2 < 64).float()
    water = disc.expand(60, 60, 60)
    return grid, torch.stack([water, torch.zeros_like(water)])


def patient():
    grid = VolumeGrid(112, 128, 104, 0.2)
    return grid, head(3, grid)


@pytest.mark.physics
@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize(("make", "most"), [(cylinder, 0.012), (patient, 0.024)])
def test_errors_of_simulated_scatter(make, most):
    """Error over primary in each bin, with kernels of slabs and no fit to the object."""
    model, parameters = silicon_kernels()
    grid, maps = make()
    simulator = ScanSimulator(
        WIDE_PANEL, grid, model, ObjectScatter(accuracy=0.03, pixel_cm=0.96), noise=False
    )
    scan = simulator.scan(maps, make.__name__, seed=1)
    air = model.air().detach()[:, None, None]
    gain = (air / scan.air)[:, None].double()
    primary, scatter = gain * scan.at("primary"), gain * scan.at("scatter")
    counts = primary + scatter
    fraction = KernelScatter(WIDE_PANEL, model, parameters)(counts[None])[0]
    shadow = primary[-1] < 0.3 * air[-1]
    before = (scatter / primary)[:, shadow].mean(1)
    after = (counts * (1 - fraction) / primary - 1).abs()[:, shadow].mean(1)
    assert before[-1] > 0.15
    assert after[-1] < most
    assert (after < 0.5 * before).all()
