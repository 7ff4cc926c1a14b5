"""Covariance of bins from photons that are registered more than once."""

import numpy as np
import pytest
import torch

from pcctlearn.physics.response.pairs import Pairs, bin_covariance, pair_counts, write_pairs
from pcctlearn.physics.response.table import Table

ENERGIES = torch.tensor([30.0, 60.0], dtype=torch.float64)
BORDERS = torch.tensor([10.0, 20.0, 30.0, 40.0], dtype=torch.float64)


def pairs():
    upper = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1)).round(decimals=6)
    return Pairs(ENERGIES, BORDERS, upper + upper.transpose(1, 2))


def test_photons_that_are_always_counted_twice():
    # of 60 keV: once in 10–20 keV and once in 30–40; of 30 keV: once in 20–30
    density = torch.tensor([[0.0, 0.1], [0.1, 0.0], [0.0, 0.1]])
    table = Table(ENERGIES, torch.tensor([15.0, 25.0, 35.0]), density)
    together = torch.zeros(2, 3, 3)
    together[1, 0, 2] = together[1, 2, 0] = 1
    photons = torch.tensor([5.0, 7.0])
    covariance = bin_covariance(
        table, Pairs(ENERGIES, BORDERS, together), BORDERS, ENERGIES, photons
    )
    expected = torch.tensor([[7.0, 0.0, 7.0], [0.0, 5.0, 0.0], [7.0, 0.0, 7.0]])
    torch.testing.assert_close(covariance, expected)
    one_bin = bin_covariance(
        table, Pairs(ENERGIES, BORDERS, together), BORDERS[[0, 3]], ENERGIES, photons
    )
    assert one_bin.item() == pytest.approx(5 + 4 * 7)  # E[n²] = 4


def test_an_edge_within_a_cell_divides_it_in_proportion():
    everything = pairs().between(BORDERS, ENERGIES)
    torch.testing.assert_close(everything, pairs().pairs_per_photon)
    quarter = pairs().between(torch.tensor([10.0, 12.5]), ENERGIES)[:, 0, 0]
    torch.testing.assert_close(quarter, everything[:, 0, 0] / 16)


def test_gradient_in_the_edges():
    edges = torch.tensor([12.0, 23.0, 37.0], requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: pairs().between(e, ENERGIES), edges)


def test_round_trip(tmp_path):
    path = tmp_path / "pairs.npz"
    write_pairs(path, pairs())
    read = Pairs.from_file(path)
    assert torch.equal(read.energies_keV, ENERGIES)
    assert torch.equal(read.borders_keV, BORDERS)
    torch.testing.assert_close(read.pairs_per_photon, pairs().pairs_per_photon, atol=1e-6, rtol=0)


def test_a_bad_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz.*simulate\.py detector"):
        Pairs.from_file(tmp_path / "none.npz")
    path = tmp_path / "pairs.npz"
    np.savez(path, energies_keV=ENERGIES.numpy())
    with pytest.raises(ValueError, match=r"borders_keV.*missing"):
        Pairs.from_file(path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"pairs\.npz is damaged"):
        Pairs.from_file(path)


def test_linear_in_the_photon_energy():
    above_k_edges = Pairs(ENERGIES + 10, BORDERS, pairs().pairs_per_photon)
    middle = above_k_edges.between(BORDERS, torch.tensor([55.0]))
    torch.testing.assert_close(middle[0], pairs().pairs_per_photon.mean(0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upper_quanta": np.zeros((2, 5), np.int32)}, "shapes"),
        ({"upper_quanta": np.zeros((3, 6), np.int32)}, "shapes"),
        ({"borders_keV": np.zeros((2, 2))}, "shapes"),
        ({"borders_keV": np.zeros(0)}, "shapes"),
        ({"borders_keV": np.arange(10.0**5)}, "shapes"),  # would be 10¹⁰ pairs
        ({"quantum": np.ones(2)}, "shapes"),
        ({"quantum": np.float64(np.nan)}, "pairs_per_photon .*finite"),
        ({"quantum": np.float64(-1)}, "pairs_per_photon .*negative"),
        ({"energies_keV": np.array([30.0, np.inf])}, "energies_keV .*finite"),
    ],
)
def test_arrays_of_wrong_shapes_or_values(tmp_path, change, words):
    path = tmp_path / "pairs.npz"
    write_pairs(path, pairs())
    with np.load(path) as file:
        np.savez(path, **{**file, **change})
    with pytest.raises(ValueError, match=rf"pairs\.npz .*{words}"):
        Pairs.from_file(path)


def test_energies_beyond_the_simulation_raise_an_error():
    with pytest.raises(ValueError, match=r"61 keV .*30 to 60"):
        pairs().between(BORDERS, torch.tensor([61.0]))
    with pytest.raises(ValueError, match=r"5 keV .* 10 keV"):
        pairs().between(torch.tensor([5.0, 20.0]), ENERGIES)


def test_shapes_and_borders_are_checked(annotations_off):
    with pytest.raises(ValueError, match=r"\(2, 2, 2\), got \(2, 3, 3\)"):
        Pairs(ENERGIES, BORDERS[:3], torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match="borders_keV"):
        Pairs(ENERGIES, BORDERS.flip(0), torch.zeros(2, 3, 3))


def test_pairs_behind_an_object_are_those_of_the_fluence_that_it_leaves():
    table, attenuation = pairs(), torch.tensor([[0.2, 0.1], [1.0, 0.5]])
    rays, fluence = torch.tensor([[[3.0, 0.2]], [[0.0, 1.0]]]), torch.tensor([5.0, 7.0])
    found = pair_counts(table, rays, BORDERS, ENERGIES, fluence, attenuation)
    assert found.shape == (2, 1, 3, 3)
    left = fluence * torch.exp(-rays[1, 0] @ attenuation)
    wanted = torch.einsum("ebc,e->bc", table.between(BORDERS, ENERGIES), left)
    torch.testing.assert_close(found[1, 0], wanted)
