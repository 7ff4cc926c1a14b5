"""Response tables: files, interpolation and errors that name the file."""

import numpy as np
import pytest
import torch
from scipy.io import savemat
from support.scanners import FOUR_BINS, SIX_BINS, SPECTRA, cadmium_telluride, silicon

from pcctlearn.physics.response.simple import Gaussian
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.spectrum import Spectrum

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
        ("", "first line is ''"),
        (CSV.replace("1/keV", "1/eV"), "'# unit: 1/eV'"),
        (CSV.removeprefix(UNIT), "'deposited_keV,30,60'"),
        (UNIT, "no table"),
        (CSV.replace("deposited_keV", "energy_keV"), "'energy_keV'"),
        (CSV.replace("0.03", "many"), "'many'"),
        (CSV.replace("20,0,0.03", "20,0"), r"response\.csv"),
        (UNIT + "deposited_keV,30,60\n", "no table"),
        (CSV.replace("0.03", "-0.03"), "response_per_keV"),
        (CSV.replace("0.03", "nan"), "response_per_keV"),
        (CSV.replace("40,0.01", "45,0.01"), "deposited_keV"),
    ],
)
def test_a_bad_csv(tmp_path, text, message):
    path = tmp_path / "response.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Table.from_file(path)


def test_a_header_longer_than_its_rows(tmp_path):
    path = tmp_path / "response.csv"
    path.write_text(CSV.replace("30,60", "30,60,90"))
    with pytest.raises(ValueError, match=r"energies_keV \(3,\), .* response_per_keV \(4, 2\)"):
        Table.from_file(path)


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_array(tmp_path, suffix, name):
    path = tmp_path / f"response{suffix}"
    others = {key: values for key, values in ARRAYS.items() if key != name}
    np.savez(path, **others) if suffix == ".npz" else savemat(path, others)
    with pytest.raises(ValueError, match=rf"{name}.*\.csv"):
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
    with pytest.raises(ValueError, match=r"response\.npz .*not numbers"):
        Table.from_file(path)
    assert not opened


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_a_text_file_with_a_binary_suffix(tmp_path, suffix):
    path = tmp_path / f"response{suffix}"
    path.write_bytes(b"deposited_keV,30,60\n" * 20)
    with pytest.raises(ValueError, match=rf"response\{suffix}"):
        Table.from_file(path)


def test_an_unknown_suffix(tmp_path):
    path = tmp_path / "response.txt"
    path.write_text(CSV)
    with pytest.raises(ValueError, match=r"'\.txt'"):
        Table.from_file(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz.*\.csv"):
        Table.from_file(tmp_path / "none.npz")


def test_a_spectrum_beyond_the_response():
    table = Table(*(torch.from_numpy(values) for values in ARRAYS.values()))
    edges = torch.tensor([15.0, 35.0])
    assert table.above(edges, torch.tensor([60.0])).shape == (2, 1)
    for beyond in (29.0, 61.0):
        with pytest.raises(ValueError, match=rf"{beyond:g} keV .*30 to 60 keV"):
            table.above(edges, torch.tensor([beyond, 60.0]))


def test_lowest_keV_is_the_remedy_for_a_spectrum_below_the_response():
    response = Table.from_file(SPECTRA.parent / "response/cdte_750um.csv")
    low = {"table": SPECTRA / "tungsten_120kV_12deg.csv", "photons_per_pixel": 1e5}
    edges = torch.tensor(FOUR_BINS)
    with pytest.raises(ValueError, match=r"lowest_keV=10\.5"):
        response.above(edges, Spectrum(**low, lowest_keV=5.0).energies_keV)
    assert response.above(edges, Spectrum(**low, lowest_keV=10.5).energies_keV).isfinite().all()


def test_linear_in_the_photon_energy_between_columns():
    columns = torch.from_numpy(ENERGIES + 10)  # no K-edge in between
    arrays = (columns, torch.from_numpy(DEPOSITED), torch.from_numpy(DENSITY))
    energies = torch.tensor([50.0, 55.0, 70.0])
    with pytest.raises(ValueError, match=r"50 keV .*widest_gap_keV=30"):
        Table(*arrays).above(torch.tensor([25.0]), energies)
    table = Table(*arrays, widest_gap_keV=30.0)
    between = DENSITY @ np.array([[2 / 3, 1 / 2, 0], [1 / 3, 1 / 2, 1]])
    expected = Table(energies, arrays[1], torch.from_numpy(between))
    edges = torch.tensor([5.0, 12.0, 25.0, 33.0])
    torch.testing.assert_close(table.above(edges, energies), expected.above(edges, energies))


def test_columns_in_any_order_and_a_single_column():
    table = Table(*(torch.from_numpy(values) for values in ARRAYS.values()))
    turned = Table(table.energies_keV.flip(0), table.deposited_keV, table.response_per_keV.flip(1))
    one = Table(table.energies_keV[1:], table.deposited_keV, table.response_per_keV[:, 1:])
    energies, edges = torch.tensor([30.0, 60.0]), torch.arange(5.0, 50.0, 2.5)
    above = table.above(edges, energies)
    torch.testing.assert_close(turned.above(edges, energies), above)
    torch.testing.assert_close(one.above(edges, energies[1:]), above[:, 1:])


@pytest.mark.parametrize("response", [silicon, cadmium_telluride])
@pytest.mark.parametrize("edges_keV", [FOUR_BINS, SIX_BINS])
def test_interpolation_agrees_with_the_response(response, edges_keV):
    """Air counts of a spectrum every 0.5 keV, with columns every 1 keV as in the shipped tables."""
    table = Table.sampled(response(), torch.arange(10.5, 141.0))
    energies, edges = torch.arange(12.25, 119.5, 0.5), torch.tensor(edges_keV)
    tube = Spectrum(SPECTRA / "tungsten_120kV_12deg.csv", {"aluminium": 0.2})
    fluence = torch.from_numpy(np.interp(energies, tube.energies_keV, tube.fluence))
    exact, between = (r.above(edges, energies).diff(dim=0) @ fluence for r in (response(), table))
    torch.testing.assert_close(between, exact, rtol=1e-3 if len(edges) == 5 else 2e-3, atol=0)


@pytest.mark.parametrize("table", ["cdte_750um", "silicon_60mm"])
def test_the_shipped_responses_with_a_spectrum_every_half_keV(table):
    """Air counts of four bins: spectrum in steps of 0.5 keV against steps of 1 keV."""
    response = Table.from_file(SPECTRA.parent / f"response/{table}.csv")
    tube = Spectrum(SPECTRA / "tungsten_120kV_12deg.csv", {"aluminium": 0.2}, photons_per_pixel=1e6)
    energies = torch.arange(12.25, 120.0, 0.5)
    fluence = torch.from_numpy(np.interp(energies, tube.energies_keV, tube.fluence))
    fine = Spectrum.from_arrays(energies, fluence, photons_per_pixel=1e6)
    coarse_counts, counts = (
        -response.above(torch.tensor(FOUR_BINS), s.energies_keV).diff(dim=0) @ s.fluence
        for s in (tube, fine)
    )
    torch.testing.assert_close(counts, coarse_counts, rtol=3e-3, atol=0)


def test_a_k_edge_between_columns_is_a_jump():
    exact = cadmium_telluride()
    table = Table.sampled(exact, torch.arange(10.5, 141.0))
    around, edges = torch.tensor([26.6, 26.7, 26.72, 26.8]), torch.tensor([15.0])
    resampled = table.above(edges, around)[0]
    torch.testing.assert_close(resampled, exact.above(edges, around)[0], rtol=0, atol=0.015)
    rise = resampled.diff()
    assert rise[1] > 5 * max(rise[0].abs(), rise[2].abs())


@pytest.mark.parametrize(
    ("change", "message", "factor"),
    [
        ({"energies_keV": ENERGIES * 1000}, "energies_keV .*60000 keV", 1e-3),
        ({"deposited_keV": DEPOSITED * 1000}, "deposited_keV .*40000 keV", 1e-3),
        (
            {"response_per_keV": DENSITY * 1000},
            r"1e\+03 events",
            1e-3,
        ),
        (
            {"response_per_keV": DENSITY / 1000},
            r"0\.001 events",
            1e3,
        ),
    ],
)
def test_a_wrong_unit_is_named_with_its_remedy(tmp_path, change, message, factor):
    path = tmp_path / "response.npz"
    np.savez(path, **{**ARRAYS, **change})
    with pytest.raises(ValueError, match=rf"response\.npz .*{message}"):
        Table.from_file(path)
    ((name, values),) = change.items()
    np.savez(path, **{**ARRAYS, name: values * factor})
    np.testing.assert_allclose(getattr(Table.from_file(path), name), ARRAYS[name])


@pytest.mark.parametrize("energies", [[30.0, 30.0], [0.0, 30.0], [-30.0, 30.0], [30.0, np.nan]])
def test_impossible_photon_energies_raise_an_error(tmp_path, energies):
    path = tmp_path / "response.npz"
    np.savez(path, **{**ARRAYS, "energies_keV": np.array(energies)})
    with pytest.raises(ValueError, match=r"response\.npz .*energies_keV"):
        Table.from_file(path)


def test_an_edge_below_the_registered_energies():
    table = Table(*(torch.from_numpy(values) for values in ARRAYS.values()))
    assert table.above(torch.tensor([5.0, 45.0, 90.0]), table.energies_keV)[1:].abs().max() == 0
    with pytest.raises(ValueError, match=r"4 keV .* 5 keV"):
        table.above(torch.tensor([4.0, 20.0]), table.energies_keV)


@pytest.mark.parametrize("deposited", [[10.0, 20.0], [10.0, 20.0, 35.0], [30.0, 20.0, 10.0]])
def test_cells_increase_in_equal_steps(deposited):
    density = torch.ones(len(deposited), 1)
    with pytest.raises(ValueError, match="deposited_keV"):
        Table(torch.tensor([60.0]), torch.tensor(deposited), density)


@pytest.mark.parametrize("response", [silicon, cadmium_telluride])
@pytest.mark.parametrize("edges_keV", [FOUR_BINS, SIX_BINS, [7.13, 28.37, 61.61, 98.9, 140.0]])
def test_a_sampled_table_has_the_bins_of_its_response(response, edges_keV):
    energies, edges = torch.arange(12.5, 121.0), torch.tensor(edges_keV)
    table = Table.sampled(response(), energies)
    bins, sampled = (r.above(edges, energies).diff(dim=0) for r in (response(), table))
    torch.testing.assert_close(sampled, bins, rtol=0, atol=1e-3)


def test_a_sampled_table_must_end_above_all_events():
    wide, energies = Gaussian(2.0, relative_resolution=0.1), torch.tensor([30.0, 120.0])
    with pytest.raises(ValueError, match=r"140 keV.*highest_keV"):
        Table.sampled(wide, energies)
    everything = Table.sampled(wide, energies, highest_keV=200.0).above(torch.zeros(1), energies)
    torch.testing.assert_close(everything, torch.ones(1, 2), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"step_keV .*positive.* 0\.0"):
        Table.sampled(wide, energies, step_keV=0.0)
