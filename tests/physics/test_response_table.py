"""A response read from a file is the one that was written, or the file is told what is wrong."""

import numpy as np
import pytest
import torch
from scanners import FOUR_BINS, SIX_BINS, cadmium_telluride, silicon
from scipy.io import savemat

from pcctlearn.physics.response.simple import Gaussian
from pcctlearn.physics.response.table import Table

ENERGIES, DEPOSITED = np.array([30.0, 60.0]), np.array([10.0, 20.0, 30.0, 40.0])
DENSITY = np.array([[0.01, 0.02], [0.0, 0.03], [0.05, 0.01], [0.01, 0.04]])
ARRAYS = {"energies_keV": ENERGIES, "deposited_keV": DEPOSITED, "response_per_keV": DENSITY}
UNIT = "# unit: 1/keV\n"
CSV = UNIT + "deposited_keV,30,60\n10,0.01,0.02\n20,0,0.03\n30,0.05,0.01\n40,0.01,0.04\n"

WRITERS = {
    ".csv": lambda path: path.write_text(CSV),
    ".npz": lambda path: np.savez(path, **ARRAYS),
    ".mat": lambda path: savemat(path, ARRAYS),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"response{suffix}"
    WRITERS[suffix](path)
    table = Table.from_file(path)
    for name, values in ARRAYS.items():
        assert torch.equal(getattr(table, name), torch.from_numpy(values)), name
    everything = table.above(torch.tensor([5.0]), table.energies_keV)[0]
    torch.testing.assert_close(everything, torch.from_numpy(10 * DENSITY.sum(0)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line is ''"),
        (CSV.replace("1/keV", "1/eV"), "its first line is '# unit: 1/eV'"),
        (CSV.removeprefix(UNIT), "its first line is 'deposited_keV,30,60'"),
        (UNIT, "there is no table in it"),
        (CSV.replace("deposited_keV", "energy_keV"), "its first column is 'energy_keV'"),
        (CSV.replace("0.03", "many"), "could not convert string to float: 'many'"),
        (CSV.replace("20,0,0.03", "20,0"), "is no response"),
        (UNIT + "deposited_keV,30,60\n", "there is no table in it"),
        (CSV.replace("0.03", "-0.03"), "finite and not negative"),
        (CSV.replace("0.03", "nan"), "finite and not negative"),
        (CSV.replace("40,0.01", "45,0.01"), "equal steps"),
    ],
)
def test_a_bad_csv(tmp_path, text, message):
    path = tmp_path / "response.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Table.from_file(path)


def test_a_header_longer_than_its_rows(tmp_path, annotations_off):
    path = tmp_path / "response.csv"
    path.write_text(CSV.replace("30,60", "30,60,90"))
    with pytest.raises(ValueError, match=r"\(deposited, energy\) = \(4, 3\), got \(4, 2\)"):
        Table.from_file(path)


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_array(tmp_path, suffix, name):
    path = tmp_path / f"response{suffix}"
    others = {key: values for key, values in ARRAYS.items() if key != name}
    np.savez(path, **others) if suffix == ".npz" else savemat(path, others)
    with pytest.raises(ValueError, match=f"{name}.*give a .csv whose first line"):
        Table.from_file(path)


def test_a_pickle_is_never_opened(tmp_path):
    opened = []

    class Trap:
        def __reduce__(self):
            return opened.append, (1,)

    path = tmp_path / "response.npz"
    trap = np.empty((4, 2), dtype=object)
    trap[:] = [[Trap(), Trap()]] * 4
    np.savez(path, **{**ARRAYS, "response_per_keV": trap})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Table.from_file(path)
    assert not opened


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_a_file_that_only_claims_to_be_one(tmp_path, suffix):
    path = tmp_path / f"response{suffix}"
    path.write_bytes(b"deposited_keV,30,60\n" * 20)
    with pytest.raises(ValueError, match="is no response"):
        Table.from_file(path)


def test_another_ending(tmp_path):
    path = tmp_path / "response.txt"
    path.write_text(CSV)
    with pytest.raises(ValueError, match=r"it ends in '.txt'\): give a .csv"):
        Table.from_file(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no response at .*none.npz: give a .csv"):
        Table.from_file(tmp_path / "none.npz")


def test_another_grid_than_the_spectrum():
    table = Table(*(torch.from_numpy(values) for values in ARRAYS.values()))
    edges = torch.tensor([15.0, 35.0])
    assert table.above(edges, torch.tensor([60.0])).shape == (2, 1)
    with pytest.raises(ValueError, match=r"no column for 61 keV \(it runs from 30 to 60 keV"):
        table.above(edges, torch.tensor([30.0, 61.0]))


def test_an_edge_below_the_registered_energies():
    table = Table(*(torch.from_numpy(values) for values in ARRAYS.values()))
    assert table.above(torch.tensor([5.0, 45.0, 90.0]), table.energies_keV)[1:].abs().max() == 0
    with pytest.raises(ValueError, match=r"threshold of 4 keV lies below .* begin at 5 keV"):
        table.above(torch.tensor([4.0, 20.0]), table.energies_keV)


@pytest.mark.parametrize("deposited", [[10.0, 20.0], [10.0, 20.0, 35.0], [30.0, 20.0, 10.0]])
def test_cells_increase_in_equal_steps(deposited):
    density = torch.ones(len(deposited), 1)
    with pytest.raises(ValueError, match="increase in equal steps"):
        Table(torch.tensor([60.0]), torch.tensor(deposited), density)


@pytest.mark.parametrize("response", [silicon, cadmium_telluride])
@pytest.mark.parametrize("edges_keV", [FOUR_BINS, SIX_BINS, [7.13, 28.37, 61.61, 98.9, 140.0]])
def test_a_sampled_table_has_the_bins_of_its_response(response, edges_keV):
    energies, edges = torch.arange(12.5, 121.0), torch.tensor(edges_keV)
    table = Table.sampled(response(), energies)
    bins, sampled = (r.above(edges, energies).diff(dim=0) for r in (response(), table))
    torch.testing.assert_close(sampled, bins, rtol=0, atol=1e-3)


def test_a_sampled_table_ends_above_all_events():
    wide, energies = Gaussian(2.0, relative_resolution=0.1), torch.tensor([30.0, 120.0])
    with pytest.raises(ValueError, match=r"events a photon above 140 keV.*: raise highest_keV"):
        Table.sampled(wide, energies)
    everything = Table.sampled(wide, energies, highest_keV=200.0).above(torch.zeros(1), energies)
    torch.testing.assert_close(everything, torch.ones(1, 2), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="step_keV must be positive, got 0"):
        Table.sampled(wide, energies, step_keV=0.0)
