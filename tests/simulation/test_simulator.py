"""Simulated scans: Beer–Lambert primary, scaled scatter, Poisson noise, pixel imperfections."""

import pytest
import torch

from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.phantoms.ellipses import Ellipse
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.pileup import PileUp
from pcctlearn.physics.response.analytic import Analytic
from pcctlearn.physics.response.pairs import pair_counts
from pcctlearn.physics.response.presets import cdte_monte_carlo, pairs_of
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.scans.file import faults, write_scan
from pcctlearn.simulation.simulator import ScanSimulator, mean_spr
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

ENERGIES_keV = torch.arange(20.5, 100.0, 4.0)
SCATTER = ObjectScatter(accuracy=0.2, chunk_histories=50, group_stride=1, pixel_cm=3.0)


GRID = VolumeGrid(12, 14, 14, 1.0)


@pytest.fixture(scope="module")
def geometry():
    return ConeBeam(
        n_views=3,
        n_rows=6,
        n_columns=8,
        pixel_cm=3.6,
        source_to_axis_cm=62.5,
        source_to_detector_cm=109.7,
    )


@pytest.fixture(scope="module")
def model():
    return SpectralModel(
        ENERGIES_keV,
        1e4 * torch.ones(len(ENERGIES_keV), dtype=torch.float64),
        Analytic("silicon", thickness_cm=6.0),
        Thresholds([25.0, 50.0, 100.0]),
        attenuation_table(["water", "calcium"], ENERGIES_keV),
        ["water", "calcium"],
    )


@pytest.fixture(scope="module")
def maps(geometry):
    ball = Ellipse((0.0, 0.0, 0.0), (5.0, 5.5, 5.0), (1.0, 0.05))
    return EllipsoidPhantom([ball]).volumes(GRID).float()


def simulated(geometry, model, maps, seed=3, **settings):
    return ScanSimulator(geometry, GRID, model, **settings).scan(maps, "ball", seed)


def test_primary_is_expected_counts_times_the_flux_of_a_point_source(geometry, model, maps):
    scan = simulated(geometry, model, maps, noise=False)
    rays = scan.at("line_integrals").double().movedim(0, -1)
    expected = expected_counts(rays, model.spectra().detach(), model.attenuation).movedim(-1, 0)
    rows, columns = torch.from_numpy(geometry.rows_cm), torch.from_numpy(geometry.columns_cm)
    distance = (109.7**2 + rows[:, None] ** 2 + columns**2).sqrt()
    flux = (109.7 / distance) ** 3
    torch.testing.assert_close(scan.at("primary").double(), expected * flux, rtol=1e-5, atol=0)
    air = model.air().detach()[:, None, None] * flux
    torch.testing.assert_close(scan.air.double(), air, rtol=1e-6, atol=0)
    assert not scan.at("scatter").any()
    assert torch.equal(scan.at("counts"), scan.at("primary"))


def test_a_scan_depends_on_the_materials_of_the_maps_not_on_the_basis(geometry, model, maps):
    basis = ["water", "iodine"]
    table = attenuation_table(basis, ENERGIES_keV)
    other = SpectralModel(
        ENERGIES_keV, model.fluence, model.response, model.thresholds, table, basis
    )
    one = ScanSimulator(geometry, GRID, model, SCATTER).scan(maps, "ball", 1)
    named = ScanSimulator(geometry, GRID, other, SCATTER).scan(
        maps, "ball", 1, materials=["water", "calcium"]
    )
    assert named.materials == one.materials == ("water", "calcium")
    assert torch.equal(named.at("counts"), one.at("counts"))


def test_scatter_is_scaled_to_the_spr_and_the_factor_recorded(geometry, model, maps):
    whole = simulated(geometry, model, maps, scatter=SCATTER)
    scaled = simulated(geometry, model, maps, scatter=SCATTER, spr=0.1)
    spr = mean_spr(scaled.at("primary"), scaled.at("scatter"), scaled.at("line_integrals"))
    assert spr == pytest.approx(0.1, rel=1e-4)
    assert whole.grid_transmission == 1
    for name in ("scatter", "scatter_standard_error"):
        expected = whole.at(name) * scaled.grid_transmission
        torch.testing.assert_close(scaled.at(name), expected)
    half = simulated(geometry, model, maps, scatter=SCATTER, grid_transmission=0.5)
    torch.testing.assert_close(half.at("scatter"), whole.at("scatter") / 2)


def test_counts_are_poisson_about_primary_and_scatter(geometry, model, maps):
    scan = simulated(geometry, model, maps, scatter=SCATTER)
    expected = (scan.at("primary") + scan.at("scatter")).double()
    counts = scan.at("counts").double()
    assert torch.equal(counts, counts.round())
    z = (counts - expected) / expected.sqrt()
    assert z.mean().abs() < 4 / z.numel() ** 0.5
    assert z.std() == pytest.approx(1, abs=4 / (2 * z.numel()) ** 0.5)


def test_the_same_seed_gives_the_same_scan(geometry, model, maps):
    one, same, other = (
        simulated(geometry, model, maps, seed, scatter=SCATTER) for seed in (1, 1, 2)
    )
    for name in ("counts", "scatter"):
        assert torch.equal(one.at(name), same.at(name))
        assert not torch.equal(one.at(name), other.at(name))


def test_each_pixel_has_the_same_thresholds_in_every_scan(geometry, model, maps):
    simulator = ScanSimulator(
        geometry, GRID, model, scatter=SCATTER, threshold_error_keV=0.5, noise=False
    )
    one, two = (simulator.scan(maps, "ball", seed) for seed in (1, 2))
    true = one.true_thresholds_keV
    assert torch.equal(true, two.true_thresholds_keV)
    errors = true - one.thresholds_keV
    assert errors.std() == pytest.approx(0.5, rel=0.2)
    air = SpectralModel(
        model.energies_keV, model.fluence, model.response, Thresholds(true), model.attenuation
    ).air()
    ratio = one.air.double() / air.detach().movedim(-1, 0)
    assert ratio.std(0).max() < 1e-6  # the ratio is the flux, equal in all bins
    assert one.at("scatter")[:, 0].std() > 0
    assert one.skew_cm is None


def test_a_skew_filter_attenuates_the_fluence_of_a_pixel(geometry, model, maps):
    skewed = simulated(geometry, model, maps, skew_cm={"aluminium": 0.02}, noise=False)
    plain = simulated(geometry, model, maps, noise=False)
    assert skewed.filter_materials == ("aluminium",)
    assert skewed.skew_cm.shape == (1, 6, 8)
    thick = skewed.skew_cm[0] > 0
    loss = skewed.air / plain.air
    assert (loss[:, thick] < 1).all()
    assert (loss[:, ~thick] > 1).all()
    assert skewed.true_thresholds_keV is None


def test_a_simulated_scan_is_a_valid_file(tmp_path, geometry, model, maps):
    scan = simulated(
        geometry, model, maps, scatter=SCATTER, threshold_error_keV=0.3, skew_cm={"aluminium": 0.01}
    )
    write_scan(tmp_path / "scan.h5", scan)
    assert faults(tmp_path / "scan.h5") == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"spr": 0.1, "grid_transmission": 1.0}, "spr or grid_transmission"),
        ({"spr": -0.1}, "spr .* -0.1"),
        ({"threshold_error_keV": -1.0}, "threshold_error_keV .* -1"),
        ({"threshold_error_keV": 30.0}, "threshold_error_keV=30"),
        ({"spr": 0.1, "scatter": None}, "use scan.spr=null"),
        ({"skew_cm": {"aluminium": -0.1}}, r"skew_cm\.aluminium .* -0.1"),
        ({"skew_cm": {"aluminium": float("nan")}}, r"skew_cm\.aluminium .* nan"),
        ({"skew_cm": {"CdTe": 10.0}}, r"skew_cm\.CdTe=10"),
        ({"skew_cm": {"cheese": 0.1}}, "cheese"),
    ],
)
def test_invalid_settings_are_rejected(geometry, model, settings, words):
    with pytest.raises(ValueError, match=words):
        ScanSimulator(geometry, GRID, model, **settings)


def test_an_empty_beam_has_no_scatter_to_primary_ratio(geometry, model):
    empty = torch.zeros(2, 12, 14, 14)
    with pytest.raises(ValueError, match="scatter-to-primary ratio"):
        mean_spr(torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2), empty[:, :1, :2, :2])


@pytest.mark.physics
def test_correlated_counts_have_the_covariance_of_the_pairs(geometry, maps):
    """CdTe: photons counted twice, of which scatter has as many as primary."""
    energies = torch.arange(14.0, 102.0, 4.0)
    cdte = SpectralModel(
        energies,
        1e4 * torch.ones(len(energies), dtype=torch.float64),
        cdte_monte_carlo(),
        Thresholds([15.0, 50.0, 100.0]),
        attenuation_table(["water", "calcium"], energies),
        ["water", "calcium"],
    )
    pairs = pairs_of("cdte_monte_carlo")
    made = ScanSimulator(geometry, GRID, cdte, pairs=pairs)
    scans = [made.scan(maps, "ball", seed) for seed in range(300)]
    counts = torch.stack([scan.counts for scan in scans]).double()[:, :, 0]
    deviations = counts - scans[0].primary[:, 0]
    found = torch.einsum("nbrc,nkrc->rcbk", deviations, deviations) / len(scans)
    lines = scans[0].line_integrals[:, 0].movedim(0, -1).double()
    flux = torch.from_numpy(geometry.relative_flux())[..., None, None]
    edges = cdte.thresholds.edges_keV.detach()
    together = flux * pair_counts(pairs, lines, edges, energies, cdte.fluence, cdte.attenuation)
    wanted = together + torch.diag_embed(scans[0].primary[:, 0].movedim(0, -1).double())
    assert (together[..., 0, 0] > 0.3 * wanted[..., 0, 0]).all()
    sd = wanted.diagonal(dim1=-2, dim2=-1).sqrt()
    error = (found - wanted) / (sd[..., None] * sd[..., None, :])
    assert error.mean((0, 1)).abs().max() < 0.04  # 14 400 draws, in all pixels: 0.012


def test_pairs_and_pile_up_exclude_each_other(geometry, model):
    pile_up = PileUp([5e-9] * 2, [0.0] * 2, time_s=0.05)
    with pytest.raises(ValueError, match="scan=correlated"):
        ScanSimulator(geometry, GRID, model, pile_up=pile_up, pairs=pairs_of("silicon_monte_carlo"))


def test_only_simulated_responses_have_pairs():
    with pytest.raises(ValueError, match=r"response gaussian.*cdte_monte_carlo"):
        pairs_of("gaussian")
