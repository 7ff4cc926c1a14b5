"""Expected counts: Beer–Lambert through a detector, for any bins, materials and pixels."""

import pytest
import torch
from support.scanners import FOUR_BINS, SIX_BINS, SPECTRA, scanner, silicon

from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response.simple import Gaussian, Ideal
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds

ENERGIES = torch.arange(10.0, 121.0, 2.0)


def ideal(energies=ENERGIES, fluence=None, edges_keV=FOUR_BINS, materials=("water", "calcium")):
    fluence = torch.ones_like(energies) if fluence is None else fluence
    table = attenuation_table(materials, ENERGIES)
    return SpectralModel(energies, fluence, Ideal(), Thresholds(edges_keV), table)


MODELS = {
    "one bin, one material": lambda: scanner(["water"], [20.0, 120.0]),
    "four bins, two materials": scanner,
    "six bins, three materials": lambda: scanner(["water", "iodine", "gadolinium"], SIX_BINS),
    "ideal": ideal,
    "gaussian": lambda: scanner(response=Gaussian()),
    "per pixel": lambda: scanner(n_pixels=5),
}


@pytest.mark.parametrize("name", MODELS)
def test_empty_beam_gives_the_flat_field(name):
    model = MODELS[name]()
    n_materials = len(model.attenuation)
    counts = model(torch.zeros(3, 5, n_materials))
    air = model.air()
    assert air.shape[-1] == model.thresholds.n_bins
    assert (air > 0).all()
    torch.testing.assert_close(counts, air.expand(3, 5, -1))


@pytest.mark.parametrize("name", MODELS)
def test_counts_fall_as_material_grows(name):
    model = MODELS[name]()
    n_materials = len(model.attenuation)
    line_integrals = torch.rand(4, 5, n_materials, generator=torch.Generator().manual_seed(1))
    for material in torch.eye(n_materials):
        counts = model(line_integrals)
        assert (model(line_integrals + 0.1 * material) < counts).all()
        assert (model(line_integrals + 1e3 * material) < 1e-6 * counts).all()


def test_monoenergetic_limit_is_beer_lambert():
    line = (ENERGIES == 60.0) * 1e6
    model = ideal(fluence=line)
    line_integrals = torch.tensor([[20.0, 1.0], [-1.0, 0.5]])
    water, calcium = 0.2059, 0.6579  # cm²/g at 60 keV: NISTIR 5632 (1995)
    expected = 1e6 * torch.exp(-line_integrals @ torch.tensor([water, calcium]))
    torch.testing.assert_close(model(line_integrals).sum(-1), expected, rtol=2e-3, atol=0)


def test_counts_are_linear_in_the_fluence():
    line_integrals = torch.tensor([12.0, 0.5])
    torch.testing.assert_close(
        scanner(photons=3e5)(line_integrals), 3 * scanner(photons=1e5)(line_integrals)
    )


@pytest.mark.parametrize("line_integrals", [[0.0, 0.0], [20.0, 1.55], [-2.0, 0.3]])
def test_slope_in_an_edge_is_the_registered_spectrum_there(line_integrals):
    """∂ȳ_b/∂D_b = −s(D_b) and ∂ȳ_b/∂D_{b+1} = +s(D_{b+1}), with s = ∫ S e^{−ΣAf} h dE'."""
    model, A = scanner(), torch.tensor(line_integrals)
    model.thresholds.learn[:] = True
    edges = torch.tensor(FOUR_BINS)
    slope = torch.autograd.functional.jacobian(
        lambda D: expected_counts(A, model.spectra(D), model.attenuation), edges
    )
    behind = model.fluence * torch.exp(-A @ model.attenuation)
    h = 1e-4
    response_per_keV = (
        model.response.above(edges - h, model.energies_keV)
        - model.response.above(edges + h, model.energies_keV)
    ) / (2 * h)
    s = (response_per_keV @ behind).detach()
    expected = torch.zeros(4, 5)
    expected[range(4), range(4)] = -s[:-1]
    expected[range(4), range(1, 5)] = s[1:]
    assert (s[:-1] > 1e-3 * behind.sum()).all()
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-6 * s.max().item())


def test_edges_and_fluence_per_pixel_equal_models_of_single_pixels():
    generator = torch.Generator().manual_seed(1)
    edges = torch.tensor(FOUR_BINS) + torch.rand(3, 5, generator=generator) - 0.5
    fluence = 1e4 * torch.rand(3, len(ENERGIES), generator=generator)
    table = attenuation_table(["water", "calcium"], ENERGIES)
    line_integrals = torch.rand(7, 3, 2, generator=generator) * torch.tensor([20.0, 2.0])

    def counts(edges, fluence, line_integrals):
        return SpectralModel(ENERGIES, fluence, silicon(), Thresholds(edges), table)(line_integrals)

    one_by_one = [counts(edges[p], fluence[p], line_integrals[:, p]) for p in range(3)]
    torch.testing.assert_close(counts(edges, fluence, line_integrals), torch.stack(one_by_one, 1))
    shared = counts(edges[0], fluence, line_integrals)
    one_by_one = [counts(edges[0], fluence[p], line_integrals[:, p]) for p in range(3)]
    torch.testing.assert_close(shared, torch.stack(one_by_one, 1))


def test_from_parts_names_the_materials():
    tube = Spectrum(SPECTRA / "tungsten_120kV_12deg.csv", {"aluminium": 0.2})
    mixed = {"water": 0.9, "iodine": 0.1}
    model = SpectralModel.from_parts(tube, silicon(), Thresholds(FOUR_BINS), ["calcium", mixed])
    assert model.materials == ["calcium", "water+iodine"]
    torch.testing.assert_close(
        model.attenuation, attenuation_table(["calcium", mixed], tube.energies_keV)
    )


def test_the_state_dict_restores_the_model():
    moved = scanner()
    moved.thresholds.assign(torch.tensor(FOUR_BINS) + 1)
    fresh = scanner()
    fresh.load_state_dict(moved.state_dict())
    torch.testing.assert_close(fresh.air(), moved.air())
    assert not torch.allclose(scanner().air(), moved.air())


@pytest.mark.parametrize(
    ("edges_keV", "message"),
    [
        ([5.0, 50.0, 120.0], "10 to 120 keV .* 5 … 50 keV"),
        ([15.0, 130.0, 140.0], "15 … 130 keV"),
        (torch.tensor([[15.0, 50.0], [8.0, 50.0]]), "8 … "),
    ],
)
def test_energies_cover_the_thresholds(edges_keV, message):
    with pytest.raises(ValueError, match=message):
        ideal(edges_keV=edges_keV)


@pytest.mark.parametrize("name", ["fluence", "attenuation"])
def test_one_energy_grid(name, annotations_off):
    tensors = {"fluence": torch.ones(56), "attenuation": torch.ones(2, 56)}
    tensors[name] = tensors[name][..., :-1]
    with pytest.raises(ValueError, match=rf"{name} .*55 .*56"):
        SpectralModel(ENERGIES, response=Ideal(), thresholds=Thresholds(FOUR_BINS), **tensors)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fluence", "attenuation"])
def test_tensors_are_finite_and_not_negative(name, bad):
    tensors = {"fluence": torch.ones(56), "attenuation": torch.ones(2, 56)}
    tensors[name][..., 7] = bad
    with pytest.raises(ValueError, match=f"{name} .*finite and not negative"):
        SpectralModel(ENERGIES, response=Ideal(), thresholds=Thresholds(FOUR_BINS), **tensors)
