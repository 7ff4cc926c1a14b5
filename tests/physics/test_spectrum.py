"""Output, hardness and filtration of X-ray tubes, and spectra from arrays."""

import sys

import numpy as np
import pytest
import torch
from support.scanners import SPECTRA

from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.physics.spectrum import Spectrum, read_spectrum, transmission

TUBE = SPECTRA / "tungsten_120kV_12deg.csv"
TWO_MM_AL = {"aluminium": 0.2}
# keV, cm²/g: mass energy-absorption of dry air (NIST, Hubbell and Seltzer, NISTIR 5632).
AIR_ENERGY_ABSORPTION = [
    *((5, 39.31), (6, 22.70), (8, 9.446), (10, 4.742), (15, 1.334), (20, 0.5389), (30, 0.1537)),
    *((40, 0.06833), (50, 0.04098), (60, 0.03041), (80, 0.02407), (100, 0.02325), (150, 0.02496)),
]


def mean_energy_keV(energies_keV, fluence):
    """Σ E S(E) / Σ S(E)."""
    return (fluence * energies_keV).sum() / fluence.sum()


def half_value_layer_cm(energies_keV, fluence):
    """Thickness of aluminium that halves the air kerma Σ S E (μ_en/ρ)_air, by bisection."""
    # NIST's table: xraylib's energy absorption of air is a third too low near 20 keV
    energy, absorption = np.log(AIR_ENERGY_ABSORPTION).T
    air = torch.from_numpy(np.exp(np.interp(np.log(energies_keV.numpy()), energy, absorption)))
    kerma = fluence * energies_keV * air
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        behind = (kerma * transmission("aluminium", middle, energies_keV)).sum() / kerma.sum()
        low, high = (middle, high) if behind > 0.5 else (low, middle)
    return (low + high) / 2


@pytest.mark.parametrize(
    ("voltage_kV", "photons_per_cm2_mAs", "mean_keV", "layer_cm"),
    # 2 mm Al at 1 m: spekpy 2.5.4, G. Poludniowski et al., Med. Phys. 48 (2021) 3630
    [(120, 3.90e8, 53.3, 0.377), (80, 1.70e8, 41.8, 0.241)],
)
def test_output_and_hardness_of_the_tubes(voltage_kV, photons_per_cm2_mAs, mean_keV, layer_cm):
    table = SPECTRA / f"tungsten_{voltage_kV}kV_12deg.csv"
    tube = Spectrum(table, TWO_MM_AL, pixel_area_cm2=1.0, lowest_keV=1.0)
    assert tube.fluence.sum().item() == pytest.approx(photons_per_cm2_mAs, rel=3e-3)
    assert mean_energy_keV(tube.energies_keV, tube.fluence).item() == pytest.approx(
        mean_keV, abs=0.1
    )
    assert half_value_layer_cm(tube.energies_keV, tube.fluence) == pytest.approx(layer_cm, rel=4e-3)


def test_hard_tube_has_the_mean_of_the_catsim_file():
    tube = Spectrum(SPECTRA / "tungsten_120kV_7deg.csv", {"aluminium": 0.55})
    mean = mean_energy_keV(tube.energies_keV, tube.fluence).item()
    assert mean == pytest.approx(60.05, abs=0.3)  # CatSim's 120 kV file, gecatsim 1.6.9


def test_half_value_layer_halves_the_kerma_of_a_single_line():
    fluence = torch.tensor([0.0, 1.0, 0.0])
    layer = half_value_layer_cm(torch.tensor([59.0, 60.0, 61.0]), fluence)
    assert transmission("aluminium", layer, torch.tensor([60.0])).item() == pytest.approx(0.5)


def test_exposure_area_and_distance_scale_the_fluence():
    near = Spectrum(TUBE, TWO_MM_AL)
    far = Spectrum(
        TUBE, TWO_MM_AL, exposure_mAs=3.0, pixel_area_cm2=0.02, source_to_detector_cm=200.0
    )
    torch.testing.assert_close(far.fluence, near.fluence * 3 * 2 / 4)


@pytest.mark.parametrize("lowest_keV", [1.0, 12.0, 40.0])
def test_photons_per_pixel_fixes_the_sum_over_the_kept_energies(lowest_keV):
    tube = Spectrum(TUBE, TWO_MM_AL, photons_per_pixel=5e4, lowest_keV=lowest_keV)
    assert tube.fluence.sum().item() == pytest.approx(5e4)
    assert tube.energies_keV.min() >= lowest_keV


@pytest.mark.parametrize(("added", "density"), [("copper", 8.96), ("tin", 7.31), ("water", 1.0)])
def test_filtration_is_beer_lambert(added, density):
    bare = Spectrum(TUBE, TWO_MM_AL)
    filtered = Spectrum(TUBE, TWO_MM_AL, {added: 0.05})
    mu = mass_attenuation(added, bare.energies_keV)
    torch.testing.assert_close(filtered.fluence, bare.fluence * torch.exp(-mu * density * 0.05))


def test_inherent_and_added_filtration_are_equivalent():
    two_steps = Spectrum(TUBE, {"aluminium": 0.1}, {"aluminium": 0.4})
    torch.testing.assert_close(two_steps.fluence, Spectrum(TUBE, {"aluminium": 0.5}).fluence)


def test_every_shipped_table_has_a_passport_and_ends_at_its_voltage():
    tables = sorted(SPECTRA.glob("*.csv"))
    assert len(tables) >= 5
    for table in tables:
        assert "source:" in table.read_text()
        assert "licence:" in table.read_text()
        energies = read_spectrum(table).energies_keV
        voltage = float(table.stem.split("_")[1].removesuffix("kV"))
        assert voltage - 1 <= energies[-1] <= voltage


def test_tungsten_reads_its_table():
    tube = Spectrum.tungsten(120.0, {"aluminium": 0.25}, photons_per_pixel=5e4)
    table = Spectrum(TUBE, {"aluminium": 0.25}, photons_per_pixel=5e4)
    torch.testing.assert_close(tube.fluence, table.fluence)
    with pytest.raises(ValueError, match=r"110 kV .*tungsten_120kV_12deg.*from_spekpy"):
        Spectrum.tungsten(110.0)


@pytest.mark.parametrize("photons", [None, 5e4])
def test_spekpy_agrees_with_the_shipped_table(photons):
    pytest.importorskip("spekpy")
    filtration = TWO_MM_AL, {"copper": 0.02}
    live = Spectrum.from_spekpy(120.0, 12.0, *filtration, photons_per_pixel=photons)
    table = Spectrum(TUBE, *filtration, photons_per_pixel=photons)
    torch.testing.assert_close(live.energies_keV, table.energies_keV)
    torch.testing.assert_close(live.fluence, table.fluence, rtol=1e-6, atol=0)


def test_a_missing_spekpy_is_named_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "spekpy", None)
    with pytest.raises(ImportError, match=r"requirements-spectra\.txt"):
        Spectrum.from_spekpy(120.0, 12.0, TWO_MM_AL)


@pytest.mark.parametrize(
    ("voltage_kV", "anode_degrees"), [(5.0, 12.0), (500.0, 12.0), (120.0, 0.0), (120.0, 95.0)]
)
def test_a_tube_that_spekpy_cannot_compute(voltage_kV, anode_degrees):
    with pytest.raises(ValueError, match=r"tube_voltage_kV .* 20 … 300"):
        Spectrum.from_spekpy(voltage_kV, anode_degrees, TWO_MM_AL)


def test_a_missing_table_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"make_spectra\.py"):
        Spectrum(tmp_path / "none.csv", TWO_MM_AL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inherent_filtration_cm": {"lead": 0.1}}, "'lead'"),
        ({"inherent_filtration_cm": {"tin": 1e4}}, "filtration .*'tin'"),
        ({"exposure_mAs": 0.0}, "exposure_mAs=0"),
        ({"lowest_keV": 119.4}, "lowest_keV=119.4"),
    ],
)
def test_a_tube_without_photons_raises_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(TUBE, **{"inherent_filtration_cm": TWO_MM_AL, **options})


def test_from_arrays_equals_the_table():
    tube = read_spectrum(TUBE)
    table, arrays = (
        Spectrum(TUBE, TWO_MM_AL, exposure_mAs=2.0),
        Spectrum.from_arrays(
            tube.energies_keV.numpy(),
            tube.fluence.tolist(),
            inherent_filtration_cm=TWO_MM_AL,
            exposure_mAs=2.0,
        ),
    )
    torch.testing.assert_close(arrays.energies_keV, table.energies_keV, rtol=0, atol=0)
    torch.testing.assert_close(arrays.fluence, table.fluence, rtol=0, atol=0)


def test_arrays_are_copied():
    energies, fluence = torch.arange(20.0, 80.0), torch.ones(60)
    tube = Spectrum.from_arrays(energies, fluence, photons_per_pixel=600.0)
    fluence[:] = 0
    energies[:] = 0
    assert tube.fluence.sum().item() == pytest.approx(600)
    assert tube.energies_keV[0] == 20


def test_uneven_steps_are_weighted_by_their_width():
    """∫ S dE of a smooth spectrum agrees with that of even steps."""
    even = torch.arange(20.0, 120.5, 0.5)
    uneven = torch.cat([torch.arange(20.0, 60.0, 0.5), torch.arange(60.0, 120.5, 2.0)])
    means = [
        mean_energy_keV(tube.energies_keV, tube.fluence).item()
        for tube in (
            Spectrum.from_arrays(energies, (energies - 20) * (120.5 - energies))
            for energies in (even, uneven)
        )
    ]
    assert means[0] == pytest.approx(means[1], abs=0.05)


def test_zeros_above_the_tube_voltage_are_dropped():
    energies = torch.arange(20.0, 150.0)
    tube = Spectrum.from_arrays(energies, (energies < 80).double())
    assert tube.energies_keV[-1] == 79


SOUND = {"energies_keV": [20.0, 40.0, 60.0, 80.0], "fluence": [1.0, 3.0, 2.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "message", "repaired"),
    [
        (
            {"energies_keV": [20e3, 40e3, 60e3, 80e3]},
            "runs to 80000 keV: if that is in eV, .* divide the energies by 1000",
            {"energies_keV": [e / 1000 for e in (20e3, 40e3, 60e3, 80e3)]},
        ),
        (
            {"energies_keV": [0.02, 0.04, 0.06, 0.08]},
            r" 0\.08 keV: .*energy_unit=MeV.* 1000",
            {"energies_keV": [e * 1000 for e in (0.02, 0.04, 0.06, 0.08)]},
        ),
        (
            {"energies_keV": [20.0, 60.0, 40.0, 80.0]},
            "40 keV .* 60 keV",
            {"energies_keV": sorted([20.0, 60.0, 40.0, 80.0])},
        ),
        (
            {"energies_keV": [20.0, 40.0, float("nan"), 80.0]},
            "energies .* finite",
            {"energies_keV": [20.0, 40.0, 80.0], "fluence": [1.0, 3.0, 1.0]},
        ),
        (
            {"fluence": [1.0, float("nan"), 2.0, 1.0]},
            "1 of 4 samples.* 40 keV",
            {"energies_keV": [20.0, 60.0, 80.0], "fluence": [1.0, 2.0, 1.0]},
        ),
        (
            {"fluence": [1.0, 3.0, -2.0, 1.0]},
            "negative .*1 of 4 samples.* 60 keV",
            {"fluence": [1.0, 3.0, 0.0, 1.0]},
        ),
        (
            {"fluence": [0.0, 0.0, 0.0, 0.0]},
            "fluence .* zero",
            {"fluence": [1.0, 3.0, 2.0, 1.0]},
        ),
        (
            {"fluence": [1e308, 1e308, 1e308, 1e308]},
            "fluence .* infinity",
            {"fluence": [1.0, 1.0, 1.0, 1.0]},
        ),
        (
            {"fluence": [1.0, 3.0, 2.0]},
            r"\(3,\) for \(4,\)",
            {"fluence": [1.0, 3.0, 2.0, 0.0]},
        ),
    ],
)
def test_an_impossible_spectrum_is_named_with_its_remedy(change, message, repaired):
    with pytest.raises(ValueError, match=message):
        Spectrum.from_arrays(**{**SOUND, **change}, photons_per_pixel=1e5)
    tube = Spectrum.from_arrays(**{**SOUND, **repaired}, photons_per_pixel=1e5)
    assert tube.fluence.sum().item() == pytest.approx(1e5)
