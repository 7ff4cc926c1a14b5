"""An abdomen of a flawed detector: the order of the corrections, and the floor of water alone."""

from functools import partial

import numpy as np
import pytest
import torch
from support.plates import cdte_scanner
from support.studies import in_context
from support.truth import image, sinogram

from pcctlearn.calibration.direct_inversion import DirectInversion
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.water_slab import WaterSlab
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.figures import draw
from pcctlearn.metrics.errors import rms
from pcctlearn.phantoms.ellipses import iodine_abdomen
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.results import write_results
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.etb_abdomen import EtbAbdomen, without_stripes
from pcctlearn.studies.flawed_bench import interpolated
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

BASIS = ["PMMA", "aluminium"]
ERRORS = DetectorErrors(0.0035, 0.0012, (-0.006, 0.006), 0.3333)
PLATES = {
    "default": {"aluminium": [0.0, 0.5, 1.0, 1.5, 2.0]},
    "slab": {"water": [0.0, 20.0]},
    "two": {"water": [0.0, 20.0]},
}


def scanner():
    model = cdte_scanner()
    table = attenuation_table(BASIS, model.energies_keV)
    return SpectralModel(
        model.energies_keV, model.fluence, model.response, model.thresholds, table, BASIS
    )


def study(**options):
    settings = {
        "calibrations": {
            "etb": EtbCal(),
            "direct": DirectInversion(),
            "slab": WaterSlab(),
            "two": WaterSlab(),
        },
        "plates_cm": PLATES,
        "of_two_materials": ["two"],
        **options,
    }
    return EtbAbdomen(
        scanner(),
        FanBeam(48, 96, 0.4, 75.0, 108.5),
        ImageGrid(64, 64, 0.4),
        iodine_abdomen(),
        errors=ERRORS,
        decomposition=partial(MaximumLikelihood),
        range_g_cm2={"PMMA": 40.0, "aluminium": 8.0},
        regions_cm=[[0.0, 0.5], [-0.5, -1.5], [7.0, -2.0]],
        **settings,
    )


@pytest.fixture(name="results", scope="module")
def _results():
    torch.set_default_dtype(torch.float64)
    return study().run(in_context())


def rms_of(results, name, keV=40):
    return results.numbers[f"rms_HU_{keV}keV.{name}"]


def test_the_order_of_the_corrections(results):
    order = ["uncorrected", "direct", "etb"]
    errors = [rms_of(results, name) for name in order]
    assert errors == sorted(errors, reverse=True)
    assert rms_of(results, "etb") == pytest.approx(rms_of(results, "true"), rel=0.01)
    assert rms_of(results, "noisy_etb") < 1.2 * rms_of(results, "true")
    assert rms_of(results, "slab") < rms_of(results, "uncorrected")


def test_the_decomposition_has_no_floor(results):
    assert rms_of(results, "exact_true") < 0.2
    assert rms_of(results, "exact_etb") < 0.3
    assert rms_of(results, "true") > 1.0


def test_polynomials_of_the_basis_materials_have_almost_no_floor(results):
    assert rms_of(results, "materials_true") < 0.2
    assert rms_of(results, "materials_etb") < 0.3
    assert rms_of(results, "materials_uncorrected") > 10
    assert rms_of(results, "exact_uncorrected") > 8


def test_only_pixel_models_decompose(results):
    named = {key.partition("exact_")[2] for key in results.numbers if "exact_" in key}
    assert named == {"uncorrected", "true", "etb", "noisy_etb"}


def test_a_correction_for_two_materials_has_the_reference_of_both(results):
    images = {name: results.arrays[f"images/{name}"][0] for name in ("two", "materials_reference")}
    body = images["materials_reference"] > -600
    difference = (images["two"] - images["materials_reference"])[body]
    assert rms_of(results, "two") == pytest.approx(rms(difference), rel=0.02)
    assert rms_of(results, "two") != pytest.approx(rms_of(results, "slab"), rel=0.02)


def test_figures(results, tmp_path):
    write_results(results, tmp_path)
    for figure in results.figures:
        assert draw(figure, tmp_path).axes


def test_plates_of_unknown_calibrations_are_refused():
    with pytest.raises(ValueError, match="plates_cm"):
        study(plates_cm={**PLATES, "sfr": PLATES["default"]})
    with pytest.raises(ValueError, match="bct"):
        study(of_two_materials=["bct"])
    with pytest.raises(ValueError, match="plates_cm"):
        study(plates_cm={})


def test_flagged_columns_are_interpolated():
    projections = torch.arange(6.0)[None, :, None].expand(2, 6, 3) ** 2
    good = torch.tensor([False, True, False, False, True, False])
    filled = interpolated(projections, good)[0, :, 0]
    assert filled.tolist() == [1.0, 1.0, 6.0, 11.0, 16.0, 16.0]


def edge_cm(profile, distances_cm, outside, inside):
    """Where a falling profile passes 90, 50 and 10 % of an edge."""
    share = (outside - profile) / (outside - inside)
    return [np.interp(-level, -share, distances_cm) for level in (0.9, 0.5, 0.1)]


def test_edges_stay_where_and_as_sharp_as_they_are_and_rings_fall():
    beam, grid = FanBeam(120, 240, 0.16, 75.0, 108.5), ImageGrid(160, 160, 0.15)
    body, insert = (0.5, 0.0, 9.5, 7.5, 0.1, 0.2), (4.0, 1.5, 1.5, 1.5, 0.0, 0.1)
    projections = sinogram(beam, [body, insert, (-3.0, -2.0, 2.0, 1.0, 0.5, -0.05)])[..., None]
    of_pixels = 0.03 * torch.randn(240, generator=torch.Generator().manual_seed(0))[:, None]
    reconstruct = fbp(beam, grid, "hamming")
    clean, cleaned, striped, repaired = (
        reconstruct @ p[..., 0]
        for p in (
            projections,
            without_stripes(projections),
            projections + of_pixels,
            without_stripes(projections + of_pixels),
        )
    )
    inside = image(grid, [(*body[:5], 1.0)], oversampling=1) > 0
    before, after, changed = (
        rms(1000 * (found - clean)[inside] / 0.2) for found in (striped, repaired, cleaned)
    )
    assert before > 25  # HU
    assert after < 0.6 * before
    assert changed < 15  # of an object without stripes; with 896 columns below 1
    x, y = grid.positions_cm()
    distance = np.hypot(x - insert[0], y - insert[1])
    radii = np.linspace(1.0, 2.0, 41)
    rings = [np.abs(distance - radius) < 0.04 for radius in radii]
    (before_90, before_50, before_10), *others = (
        edge_cm(np.array([found.numpy()[ring].mean() for ring in rings]), radii, 0.2, 0.3)
        for found in (clean, cleaned, repaired)
    )
    for at_90, at_50, at_10 in others:
        assert at_50 == pytest.approx(before_50, abs=0.005)  # cm; voxels have 0.15 cm
        assert at_10 - at_90 == pytest.approx(before_10 - before_90, rel=0.03)


def test_stripes_are_removed_and_a_smooth_object_is_kept():
    column = torch.linspace(-1, 1, 200)
    smooth = (1 - column**2).clamp(min=0).expand(40, 200)[..., None]
    stripes = torch.zeros(200)
    stripes[::23] = 0.2
    cleaned, untouched = without_stripes(smooth + stripes[:, None]), without_stripes(smooth)
    assert (cleaned - untouched).abs()[:, 20:-20].max() < 0.02
    assert (untouched - smooth).abs()[:, 20:-20].max() < 0.01  # the curvature over 31 columns
