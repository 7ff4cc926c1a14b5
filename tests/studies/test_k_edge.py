"""The K-edge study in a small size: its numbers, its laws, its figures, wrong settings."""

import pytest
from support.figures import words
from support.scanners import silicon
from support.studies import in_context, tiny_beam

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.figures import caption, draw
from pcctlearn.phantoms.ellipses import water_calcium_phantom
from pcctlearn.phantoms.inserts import head_with_inserts
from pcctlearn.physics.response.presets import cdte_monte_carlo
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.runs.results import write_results
from pcctlearn.studies.k_edge import KEdge
from pcctlearn.studies.k_edge_tables import Bins
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

CONTENTS = {"calcium": [80.0], "iodine": [8.0], "gadolinium": [8.0]}
BINS = {
    "two_bins": Bins([30.0, 60.0], ["water", "calcium"]),
    "four_bins": Bins([15.0, 33.2, 50.2, 70.0], ["water", "calcium", "gadolinium"]),
    "with_iodine": Bins(
        [15.0, 25.0, 33.2, 42.0, 50.2, 70.0], ["water", "calcium", "iodine", "gadolinium"]
    ),
}


def study(**options):
    parts = {
        "spectrum": Spectrum.tungsten(120.0, {"aluminium": 0.25}),
        "detectors": {"silicon": silicon(), "cdte": cdte_monte_carlo()},
        "bins": BINS,
        "phantom": head_with_inserts(CONTENTS, insert_diameter_cm=3.4, ring_radius_cm=3.8),
        "geometry": FanBeam(24, 48, 0.8, 62.5, 109.7),
        "grid": ImageGrid(48, 48, 0.45),
        "decomposition": MaximumLikelihood,
        "pairs": {"cdte": "cdte_monte_carlo"},
        "dose_mGy": 400.0,
        "vmi_keV": [48.0, 52.0, 70.0],
        "n_draws": 6,
        "filter": "ramp",  # the pixels are coarse
    }
    return KEdge(**parts | options)


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    results = study().run(in_context(folder))
    write_results(results, folder)
    return results, folder


def test_every_case_has_its_numbers(run):
    numbers = run[0].numbers
    for detector in ("silicon", "cdte"):
        assert f"calcium_in_calcium_80_sd_mg_mL.{detector}_two_bins" in numbers
        assert f"gadolinium_in_gadolinium_8_cnr.{detector}_four_bins" in numbers
        assert f"iodine_in_iodine_8_bias_mg_mL.{detector}_with_iodine" in numbers
        assert f"gadolinium_mtf50_per_cm.{detector}_four_bins" in numbers
    assert all(len(row) == len(t.columns) for t in run[0].tables for row in t.rows)


def test_a_basis_with_the_material_measures_it(run):
    """And the K edge tells gadolinium from calcium, which two bins do not."""
    numbers = run[0].numbers
    for detector in ("silicon", "cdte"):
        key = f"gadolinium_in_gadolinium_8_bias_mg_mL.{detector}_four_bins"
        assert abs(numbers[key]) < 0.6
        false = f"gadolinium_in_calcium_80_bias_mg_mL.{detector}_four_bins"
        assert abs(numbers[false]) < 0.5
        assert numbers[f"calcium_in_gadolinium_8_bias_mg_mL.{detector}_two_bins"] > 10


def test_iodine_in_the_basis_removes_its_false_gadolinium(run):
    numbers = run[0].numbers
    key = "gadolinium_in_iodine_8_bias_mg_mL.silicon_{}"
    assert abs(numbers[key.format("with_iodine")]) < abs(numbers[key.format("four_bins")])


def test_silicon_is_less_noisy_than_cdte_with_multiple_counting(run):
    numbers = run[0].numbers
    key = "gadolinium_in_gadolinium_8_sd_mg_mL.{}_four_bins"
    assert numbers[key.format("silicon")] < numbers[key.format("cdte")]


def test_contrast_of_gadolinium_jumps_at_its_k_edge(run):
    cnr = run[0].arrays["cnr/gadolinium_8/silicon_four_bins"]
    assert cnr[1] > 1.5 * cnr[0]


def test_its_figures_are_drawn_from_the_folder_alone(run):
    results, folder = run
    drawn = {}
    for name in results.figures:
        figure = draw(name, folder)
        figure.savefig(folder / "figure.png", dpi=50)
        drawn[name] = words(figure)
        assert caption(name).endswith(".")
    assert "energy (keV)" in drawn["k_edge.cnr_over_energy"]
    assert "gadolinium" in drawn["k_edge.maps"]
    assert "(1/cm)" in drawn["k_edge.resolution_and_noise"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"phantom": water_calcium_phantom()}, TypeError, "phantoms=head_inserts"),
        ({"geometry": tiny_beam()}, TypeError, "ParallelBeam.*tomography=fan"),
        ({"n_draws": 1}, ValueError, "n_draws .* 1"),
        ({"pairs": {"germanium": "cdte_monte_carlo"}}, ValueError, "germanium.*silicon"),
        ({"texture_cm": 1.0}, ValueError, r"texture_cm=1 .* 3\.6"),
        ({"grid": ImageGrid(30, 30, 0.7)}, ValueError, r"voxels of at most 0\.57 cm"),
    ],
)
def test_settings_that_do_not_fit_are_rejected(options, error, message, annotations_off):
    with pytest.raises(error, match=message):
        study(**options)


@pytest.mark.parametrize(
    ("thresholds", "materials", "message"),
    [
        ([15.0, 50.0], ["water", "calcium", "gadolinium"], "2 bins do not determine water"),
        ([15.0, 50.0], ["calcium", "gadolinium"], "include water"),
    ],
)
def test_bins_that_do_not_determine_a_basis_are_rejected(thresholds, materials, message):
    with pytest.raises(ValueError, match=message):
        Bins(thresholds, materials)
