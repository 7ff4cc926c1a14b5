"""Attenuation agrees with NIST, adds by mass fraction and resolves the K-edges."""

import pytest
import torch
import xraylib

from pcctlearn.physics.attenuation import (
    DENSITY_G_CM3,
    NAMED_MATERIALS,
    area_density_g_cm2,
    attenuation_table,
    mass_attenuation,
    thickness_cm,
)


@pytest.mark.parametrize(
    ("material", "cm2_per_g"),  # at 60 keV: J. H. Hubbell and S. M. Seltzer, NISTIR 5632 (1995)
    [
        ("water", 0.2059),
        ("calcium", 0.6579),
        ("silicon", 0.3206),
        ("aluminium", 0.2778),
        ("CdTe", 6.542),
        ("iodine", 7.577),
        ("gadolinium", 11.75),
    ],
)
def test_nist_at_60_keV(material, cm2_per_g):
    assert mass_attenuation(material, [60.0]).item() == pytest.approx(cm2_per_g, rel=5e-4)


def test_mixtures_are_linear_in_mass_fraction():
    energies = torch.linspace(12, 140, 50)
    water, iodine = attenuation_table(["water", "iodine"], energies)
    mixture = mass_attenuation({"water": 3.0, "iodine": 1.0}, energies)
    torch.testing.assert_close(mixture, 0.75 * water + 0.25 * iodine)
    hydrogen = 2 * 1.008 / 18.015  # standard atomic weights, IUPAC 2021
    parts = mass_attenuation({"H": hydrogen, "O": 1 - hydrogen}, energies)
    torch.testing.assert_close(parts, water, rtol=3e-4, atol=0)


@pytest.mark.parametrize(
    ("material", "edge_keV", "below", "above"),
    # both sides of the K-edge: J. H. Hubbell and S. M. Seltzer, NISTIR 5632 (1995)
    [("iodine", 33.1694, 6.553, 35.82), ("gadolinium", 50.2391, 3.812, 18.64)],
)
def test_k_edge_is_a_jump(material, edge_keV, below, above):
    sides = mass_attenuation(material, [edge_keV - 0.01, edge_keV + 0.01])
    assert sides.tolist() == pytest.approx([below, above], rel=5e-3)


def test_every_named_material_is_known():
    table = attenuation_table(list(NAMED_MATERIALS), [60.0])
    assert table.shape == (len(NAMED_MATERIALS), 1)
    assert (table > 0.1).all()


@pytest.mark.parametrize(
    ("material", "remedy"),
    [
        ("watr", "'water'.*'H2O'"),
        ("Bone, Cortical (ICRU)", "'Bone, Cortical \\(ICRP\\)'"),
        ("", "formula"),
    ],
)
def test_an_unknown_material_names_the_remedy(material, remedy):
    with pytest.raises(ValueError, match=remedy):
        mass_attenuation(material, [60.0])


@pytest.mark.parametrize("energy_keV", [-1.0, 0.0, 5000.0])
def test_energies_outside_the_tables(energy_keV):
    with pytest.raises(ValueError, match=r"'water'.* 1 to 800 keV"):
        mass_attenuation("water", [60.0, energy_keV])


def test_an_energy_of_nan_raises_an_error():
    with pytest.raises(ValueError, match=r"energies_keV .*\[60\.0, nan\]"):
        mass_attenuation("water", [60.0, float("nan")])


@pytest.mark.parametrize("mixture", [{}, {"water": -1.0, "iodine": 2.0}, {"water": 0.0}])
def test_mass_fractions_must_be_positive(mixture):
    with pytest.raises(ValueError, match="mass fractions"):
        mass_attenuation(mixture, [60.0])


def test_every_named_material_has_a_density():
    for name, compound in NAMED_MATERIALS.items():
        if compound in xraylib.GetCompoundDataNISTList():
            tabulated = xraylib.GetCompoundDataNISTByName(compound)["density"]
        elif name in ("water", "CdTe", "PMMA"):
            continue
        else:
            tabulated = xraylib.ElementDensity(xraylib.SymbolToAtomicNumber(compound))
        assert DENSITY_G_CM3[name] == pytest.approx(tabulated, rel=1e-3)


@pytest.mark.parametrize(("material", "area_density"), [("water", 2.0), ("calcium", 3.1)])
def test_area_density_of_2_cm(material, area_density):
    found = area_density_g_cm2(torch.tensor([2.0]), material)
    torch.testing.assert_close(found, torch.tensor([area_density]))
    torch.testing.assert_close(thickness_cm(found, material), torch.tensor([2.0]))


def test_an_unknown_density_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'iron'.*water, air"):
        thickness_cm(torch.ones(1), "iron")
