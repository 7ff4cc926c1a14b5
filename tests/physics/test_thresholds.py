"""Edges of energy bins and their gradients."""

import pytest
import torch
from support.scanners import FOUR_BINS, scanner

from pcctlearn.physics.thresholds import Thresholds, above_from_bins, bins_from_above


def test_bins_sum_to_everything_above_the_lowest_threshold():
    model = scanner(edges_keV=[*FOUR_BINS[:-1], 200.0])
    lowest = torch.tensor([FOUR_BINS[0]])
    everything = model.response.above(lowest, model.energies_keV)[0] * model.fluence
    torch.testing.assert_close(model.spectra().sum(0), everything)


@pytest.mark.parametrize("edge", [1, 2, 3])
def test_moving_an_inner_edge_moves_two_bins_oppositely(edge):
    model = scanner()
    before = model.air()
    moved = torch.tensor(FOUR_BINS)
    moved[edge] += 0.5
    model.thresholds.assign(moved)
    change = (model.air() - before).detach()
    assert change[edge - 1] > 0
    assert change[edge].item() == pytest.approx(-change[edge - 1].item())
    others = [b for b in range(4) if b not in (edge - 1, edge)]
    assert (change[others] == 0).all()


@pytest.mark.parametrize("n_pixels", [None, 3])
def test_only_learnable_edges_pass_a_gradient(n_pixels):
    thresholds = Thresholds(FOUR_BINS, n_pixels, learn=[False, True, True, False, False])
    thresholds().square().sum().backward()
    expected = 2 * thresholds.edges_keV.detach() * torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0])
    assert torch.equal(thresholds.edges_keV.grad, expected)


def test_the_top_edge_is_fixed_by_default():
    assert Thresholds(FOUR_BINS).learn.tolist() == [True, True, True, True, False]


def test_each_pixel_has_its_own_edges():
    thresholds = Thresholds(FOUR_BINS, n_pixels=3)
    with torch.no_grad():
        thresholds.edges_keV[1, 2] += 1
    assert thresholds.n_bins == 4
    assert thresholds().shape == (3, 5)
    assert torch.equal(thresholds()[0], torch.tensor(FOUR_BINS))
    assert thresholds()[1, 2] == FOUR_BINS[2] + 1


def test_the_tensor_of_the_caller_is_copied():
    edges = torch.tensor(FOUR_BINS)
    Thresholds(edges).assign(edges + 1)
    assert edges.tolist() == FOUR_BINS


@pytest.mark.parametrize(
    ("edges_keV", "message"),
    [
        ([15.0], r"edges_keV .*\[15\.0\]"),
        ([15.0, 50.0, 33.0], r"edges_keV .*\[15\.0, 50\.0, 33\.0\]"),
        ([15.0, 15.0, 33.0], r"edges_keV .*\[15\.0, 15\.0, 33\.0\]"),
        ([15.0, float("nan"), 33.0], "edges_keV .* finite"),
        ([15.0, 33.0, float("inf")], "edges_keV .* finite"),
        (torch.tensor([[15.0, 33.0], [20.0, 10.0]]), r"edges_keV .*\[20\.0, 10\.0\]"),
    ],
)
def test_impossible_edges_raise_an_error(edges_keV, message):
    with pytest.raises(ValueError, match=message):
        Thresholds(edges_keV)


def test_learn_has_an_entry_for_each_edge():
    with pytest.raises(ValueError, match=r"learn .* 5 edges"):
        Thresholds(FOUR_BINS, learn=[True])


def test_repr_shows_the_edges():
    assert "[15.0, 33.0, 45.0, 59.0, 120.0]" in repr(Thresholds(FOUR_BINS))
    assert "(7, 5)" in repr(Thresholds(FOUR_BINS, n_pixels=7))


def test_counts_above_thresholds_and_in_bins():
    bins = torch.tensor([[4.0, 2.0, 1.0], [0.0, 5.0, 3.0]])
    above = above_from_bins(bins)
    assert above.tolist() == [[7.0, 3.0, 1.0], [8.0, 8.0, 3.0]]
    assert torch.equal(bins_from_above(above), bins)
    assert torch.equal(above_from_bins(bins.T, dim=0), above.T)
    assert torch.equal(bins_from_above(above.T, dim=0), bins.T)
