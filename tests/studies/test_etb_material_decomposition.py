"""Iodine in a cylinder of water, by pixels that differ: right once they are calibrated."""

from functools import partial

import pytest
import torch
from support.plates import cdte_scanner
from support.studies import in_context

from pcctlearn.calibration.bct import Bct
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.water_slab import WaterSlab
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.figures import draw
from pcctlearn.phantoms.ellipses import multi_energy_phantom
from pcctlearn.runs.results import write_results
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.etb_material_decomposition import EtbMaterialDecomposition
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

PLATES = {
    "default": {"aluminium": [0.0, 0.5, 1.0, 1.5, 2.0]},
    "slab": {"water": [0.0, 16.0]},
}


def study(**options):
    settings = {"calibrations": {"etb": EtbCal(), "slab": WaterSlab()}, "plates_cm": PLATES}
    return EtbMaterialDecomposition(
        cdte_scanner((31.0, 54.0, 149.0), ("water", "iodine")),
        FanBeam(90, 128, 0.3, 75.0, 108.5),
        ImageGrid(90, 90, 0.25),
        multi_energy_phantom(),
        errors=DetectorErrors(0.0035, 0.0012, (-0.006, 0.006), 0.3333),
        decomposition=partial(MaximumLikelihood),
        range_g_cm2={"water": 30.0, "iodine": 0.2},
        rods_cm=[[5.5, 0.0], [0.0, 5.5], [-5.5, 0.0]],
        water_cm=[[0.0, 0.0], [4.6, 4.6], [-4.6, 4.6]],
        photons=1e8,
        **settings | options,
    )


@pytest.fixture(name="results", scope="module")
def _results():
    torch.set_default_dtype(torch.float64)
    return study().run(in_context())


@pytest.mark.parametrize("way", ["polynomial", "likelihood"])
def test_calibrated_pixels_find_iodine_and_water(results, way):
    error, water = (
        [results.numbers[f"{key}.{way}.{name}"] for name in ("uncorrected", "etb", "true")]
        for key in ("iodine_error_max_mg_mL", "water_error_max_percent")
    )
    assert error[0] > 0.5
    assert error[1] < 0.1
    assert water[1] < 0.5
    assert error[1] == pytest.approx(error[2], abs=0.02)


def test_the_effective_energies_of_images_are_not_those_of_iodine_behind_water(results):
    errors = [
        results.numbers[f"iodine_error_max_mg_mL.{way}.true"]
        for way in ("images", "images_behind_water")
    ]
    assert errors[0] > 1.5 * errors[1]


def test_calcium_is_not_a_basis_material_and_rods_are_true():
    phantom = multi_energy_phantom()
    places = torch.tensor([[5.5, 0.0], [0.0, 5.5], [-5.5, 0.0], [0.0, -5.5], [0.0, 0.0]])
    water, iodine, calcium = phantom.densities_at(places)
    assert iodine.tolist() == pytest.approx([0.002, 0.005, 0.010, 0.0, 0.0])
    assert calcium.tolist() == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.0])
    assert water.tolist() == pytest.approx([1.0, 1.0, 1.0, 1 - 0.1 / 1.55, 1.0])


def test_the_figure_is_drawn(results, tmp_path):
    write_results(results, tmp_path)
    for figure in results.figures:
        assert draw(figure, tmp_path).axes


def test_a_calibration_without_spectra_is_refused():
    plates = {
        "default": PLATES["default"],
        "bct": {
            "PMMA": [5.0 * (k // 6) for k in range(42)],
            "aluminium": [0.6 * (k % 6) for k in range(42)],
        },
    }
    with pytest.raises(ValueError, match=r"'bct'.*~study\.calibrations\.bct"):
        study(calibrations={"bct": Bct()}, plates_cm=plates).run(in_context())
