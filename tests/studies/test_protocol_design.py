"""The design of protocols in a small size: its numbers, its laws, its figures, wrong settings."""

from itertools import pairwise

import pytest
from support.figures import words
from support.scanners import silicon
from support.studies import in_context, tiny_beam

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.figures import caption, draw
from pcctlearn.phantoms.ellipses import water_calcium_phantom
from pcctlearn.phantoms.inserts import head_with_inserts
from pcctlearn.physics.response.presets import cdte_monte_carlo
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.runs.results import write_results
from pcctlearn.studies.protocol_design import ProtocolDesign
from pcctlearn.studies.protocol_tables import DEFAULT, DESIGNS, ROWS
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

FAN = FanBeam(12, 32, 1.2, 62.5, 109.7)
GRID = ImageGrid(44, 44, 0.5)


def design(**options):
    parts = {
        "response": silicon(),
        "thresholds": Thresholds([15.0, 33.0, 45.0, 59.0, 120.0]),
        "tube_voltage_kV": 120.0,
        "phantom": head_with_inserts({"gadolinium": [3.0]}, skull_cm=0.5),
        "geometry": FAN,
        "grid": GRID,
        "decomposition": MaximumLikelihood,
        "filtration_cm": {"aluminium": 0.25},
        "tube_voltages_kV": [100.0, 140.0],
        "filters": ["copper"],
        "n_draws": 40,
        "n_design_draws": 40,
        "n_histories": 800,
    }
    return ProtocolDesign(**parts | options)


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    results = design().run(in_context(folder))
    write_results(results, folder)
    return results, folder


def test_every_protocol_has_its_numbers_and_the_same_dose(run):
    results, _ = run
    for row in ROWS:
        assert results.numbers[f"dose_mGy.{row}"] == pytest.approx(40.0)
        assert results.numbers[f"relative_bound.{row}"] > 0
    for row in (DEFAULT, *DESIGNS):
        assert results.numbers[f"voxel_sd_mg_mL.{row}"] > 0
    assert results.numbers[f"tube_load.{DEFAULT}"] == 1
    assert all(len(row) == len(t.columns) for t in results.tables for row in t.rows)


def test_each_freedom_lowers_the_bound(run):
    relative = {row: run[0].numbers[f"relative_bound.{row}"] for row in ROWS}
    bounds = [relative[row] for row in (DEFAULT, *DESIGNS)]
    # minima are chosen by draws, which many photons follow from the bound to within 2 %
    assert all(b < 1.03 * a for a, b in pairwise(bounds))
    assert bounds[1] < 0.9
    assert relative["thresholds_and_kV"] < 1.03 * relative["kV_alone"] < 1.03**2


def test_drawn_noise_follows_the_bound(run):
    """60 rays of 40 draws: 2 %; a slice of 12 views of which neighbouring voxels are alike."""
    numbers = run[0].numbers
    for row in ROWS:
        ratio = numbers[f"ray_sd_mg_cm2.{row}"] / numbers[f"bound_mg_cm2.{row}"]
        assert ratio == pytest.approx(1, abs=0.07)
    for row in DESIGNS:
        found, bound = (numbers[f"{key}.{row}"] for key in ("relative_voxel_sd", "relative_bound"))
        assert found == pytest.approx(bound, abs=0.1)


def test_its_figures_are_drawn_from_the_folder_alone(run):
    results, folder = run
    for name in results.figures:
        figure = draw(name, folder)
        figure.savefig(folder / "figure.png", dpi=50)
        assert "thresholds" in words(figure) or "keV" in words(figure)
        assert caption(name).endswith(".")


def test_correlated_counts_are_noisier():
    poisson, correlated = (
        design(response=cdte_monte_carlo(), pairs=pairs) for pairs in (None, "cdte_monte_carlo")
    )
    bounds = [
        one._designer(one._rays(), None).variance(one.default) for one in (poisson, correlated)
    ]
    assert bounds[0] < bounds[1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"phantom": water_calcium_phantom()}, TypeError, "phantoms=head_iodine"),
        ({"geometry": tiny_beam()}, TypeError, "ParallelBeam.*tomography=fan"),
        ({"n_draws": 1}, ValueError, "n_draws .* 1"),
        ({"pairs": "germanium"}, ValueError, "response germanium has no pairs"),
        ({"pairs": "cdte_monte_carlo"}, ValueError, "physics/response=cdte_monte_carlo"),  # silicon
        ({"thresholds": Thresholds([15.0, 50.0, 120.0])}, ValueError, "3 materials"),
        ({"separation_keV": 30.0}, ValueError, "lower separation_keV"),
        ({"dose_mGy": 0.0}, ValueError, "dose_mGy"),
    ],
)
def test_settings_that_do_not_fit_are_rejected(options, error, message, annotations_off):
    with pytest.raises(error, match=message):
        design(**options)
