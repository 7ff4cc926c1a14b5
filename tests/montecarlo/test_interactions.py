"""Tables of interactions are consistent with each other and with the mass attenuation."""

import numpy as np
import pytest

from pcctlearn.montecarlo.interactions import (
    angle_energies_keV,
    composition,
    fluorescence,
    interactions,
    rate_energies_keV,
)
from pcctlearn.montecarlo.photons_numba import rotated
from pcctlearn.physics.attenuation import mass_attenuation

MATERIALS = ["silicon", "CdTe", "water", {"Cd": 0.430, "Zn": 0.028, "Te": 0.542}]
NAMES = ["silicon", "CdTe", "water", "CZT"]


@pytest.mark.parametrize("material", MATERIALS, ids=NAMES)
def test_rates_sum_to_the_attenuation(material):
    tables, energies = interactions([material]), rate_energies_keV()
    kept = slice(16, -1, 7)
    expected = mass_attenuation(material, energies[kept].tolist()).numpy()
    np.testing.assert_allclose(tables.total[0, kept], expected, rtol=1e-9)
    np.testing.assert_allclose(tables.rates.sum(1), tables.total, rtol=1e-12)


def test_tables_of_several_materials_are_stacked():
    together, alone = interactions(["silicon", "CdTe"]), interactions(["CdTe"])
    for both, one in zip(together, alone, strict=True):
        assert np.array_equal(both[1], one[0])


@pytest.mark.parametrize("material", MATERIALS, ids=NAMES)
@pytest.mark.parametrize("process", [0, 1], ids=["Compton", "Rayleigh"])
def test_shapes_and_quantiles_describe_the_same_distribution(material, process):
    tables = interactions([material])
    cosines, shapes = tables.cosines[0, process], tables.shapes[0, process]
    s = np.linspace(0, 1, shapes.shape[1])
    at = np.searchsorted(angle_energies_keV(), [15.0, 60.0, 120.0])
    for shape, quantiles in zip(shapes[at], cosines[at], strict=True):
        weighed = 8 * np.pi * s * shape  # dΩ = 8 π s ds, s = sin(θ/2)
        # coherent scattering is peaked within a few of these steps
        assert np.trapezoid(weighed, s) == pytest.approx(1, abs=2e-3)
        mean = np.trapezoid(weighed * (1 - 2 * s**2), s)
        assert np.trapezoid(quantiles, dx=1 / (len(quantiles) - 1)) == pytest.approx(mean, abs=3e-3)
        assert quantiles[0] == pytest.approx(1, abs=1e-5)
        assert quantiles[-1] == pytest.approx(-1)
        assert (np.diff(quantiles) <= 0).all()


def test_fluorescence_of_cadmium_telluride():
    lines = fluorescence("CdTe")
    np.testing.assert_allclose(lines.shares.sum(0), 1)
    np.testing.assert_allclose(lines.line_shares.sum(1), 1)
    # A. Thompson et al., X-Ray Data Booklet (LBNL/PUB-490, 2009): edges and Kα1
    np.testing.assert_allclose(lines.edges_keV, [26.711, 31.814], atol=2e-3)
    np.testing.assert_allclose(lines.lines_keV[:, 0], [23.174, 27.472], atol=2e-3)
    assert ((lines.yields > 0.8) & (lines.yields < 0.9)).all()
    below = rate_energies_keV() < lines.edges_keV[:, None]
    assert (lines.k_shares[below] == 0).all()
    assert ((lines.k_shares[~below] > 0.8) & (lines.k_shares[~below] < 0.9)).all()


def test_composition_of_a_mixture_is_normalized():
    mixture = composition({"water": 2.0, "O": 2.0})
    assert mixture[1] + mixture[8] == pytest.approx(1)
    assert mixture[1] == pytest.approx(composition("water")[1] / 2)


@pytest.mark.parametrize("read", [composition, fluorescence, lambda m: interactions([m])])
def test_unknown_material_raises(read):
    with pytest.raises(ValueError, match="unobtainium"):
        read("unobtainium")


@pytest.mark.parametrize("w", [1.0, -1.0])
def test_direction_along_the_axis_is_rotated(w):
    for cosine in (0.7, -0.7):
        direction = rotated(0.0, 0.0, w, cosine, 0.3)
        assert direction[2] == pytest.approx(w * cosine)
        assert np.linalg.norm(direction) == pytest.approx(1)
