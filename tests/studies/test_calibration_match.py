"""The comparison of calibrations, in a small size."""

import pytest
import torch
from support.plates import cdte_scanner
from support.studies import in_context

from pcctlearn.calibration.direct_inversion import DirectInversion
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.hybrid import Hybrid
from pcctlearn.calibration.layer_phantom import LayerPhantom
from pcctlearn.calibration.layer_slabs import LayerSlabs
from pcctlearn.calibration.sfr import Sfr
from pcctlearn.calibration.water_slab import WaterSlab
from pcctlearn.figures import draw
from pcctlearn.phantoms.ellipses import water_calcium_phantom
from pcctlearn.runs.results import write_results
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.calibration_match import CalibrationMatch
from pcctlearn.studies.match_cases import MatchCase
from pcctlearn.tomography.geometry.planar import FanBeam

SKEWED = DetectorErrors(0.0035, 0.0012, (-0.006, 0.006), 0.1, 0.005, 0.05)
GRID = torch.cartesian_prod(torch.arange(0.0, 11.0, 2.5), torch.arange(0.0, 2.5, 0.6))
PLATES = {
    "default": {"aluminium": (0.0, 0.5, 1.0, 1.5, 2.0)},
    "sfr": {"PMMA": GRID[:, 0].tolist(), "aluminium": GRID[:, 1].tolist()},
    "water_slab": {"water": (0.0, 20.0)},
}


def study(calibrations=None, **options):
    settings = {
        "cases": {"both": MatchCase(SKEWED), "moved": MatchCase(SKEWED, 0.02, 0.05, 0.1)},
        "plates_cm": {"default": PLATES["default"]},
        "photons": (1e9,),
        "n_draws": 2,
        "rivals": ("etb", "layer_slabs"),
        "geometry": FanBeam(24, 48, 0.7, 75.0, 108.5),
    } | options
    calibrations = calibrations or {
        "etb": EtbCal(), "layer_slabs": LayerSlabs(), "hybrid": Hybrid()
    }  # fmt: skip
    return CalibrationMatch(
        cdte_scanner(), calibrations, phantom=water_calcium_phantom(), **settings
    )


@pytest.fixture(name="results", scope="module")
def _results():
    torch.set_default_dtype(torch.float64)
    calibrations = {
        "etb": EtbCal(),
        "layer_slabs": LayerSlabs(),
        "layer_phantom": LayerPhantom(),
        "sfr": Sfr(),
        "direct": DirectInversion(),
        "water_slab": WaterSlab(),
        "hybrid": Hybrid(),
    }
    return study(calibrations, plates_cm=PLATES).run(in_context())


def test_the_hybrid_is_the_best_where_both_thresholds_scatter(results):
    numbers = results.numbers
    assert numbers["rows"] == 12
    assert numbers["rows_where_hybrid_is_worse"] == 0
    hybrid = numbers["threshold_sd_keV_60.both_1e9.hybrid"]
    assert hybrid < 0.6 * numbers["threshold_sd_keV_60.both_1e9.layer_slabs"]


def test_a_moved_phantom_spoils_the_layer_that_believes_it(results):
    numbers = results.numbers
    errors = [numbers[f"projection_sd_60.{case}_1e9.layer_phantom"] for case in ("both", "moved")]
    assert errors[1] > 2 * errors[0]


def test_every_calibration_is_scored(results):
    for name in ("sfr", "direct", "water_slab"):
        assert results.numbers[f"water_rms_mm.both_1e9.{name}"] > 0
    assert "threshold_sd_keV_60.both_1e9.sfr" not in results.numbers
    assert results.numbers["failed_rays.both_1e9.hybrid"] == 0


def test_draws_are_paired(results):
    """The same noise for all: etb and the layer err alike."""
    errors = [
        results.arrays[f"projection_sd_40/moved_1e9.{name}"] for name in ("etb", "layer_slabs")
    ]
    assert all(len(values) == 2 for values in errors)


def test_figures_are_drawn_from_the_folder(results, tmp_path):
    write_results(results, tmp_path)
    for name in results.figures:
        draw(name, tmp_path).savefig(tmp_path / "figure.png", dpi=40)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"n_draws": 1}, "n_draws"),
        ({"hybrid": "other"}, "other is no calibration"),
        ({"plates_cm": {}}, "default"),
        ({"cases": {}}, "cases and photons"),
        ({"geometry": FanBeam(24, 48, 7.0, 75.0, 108.5)}, "pixels see the phantom"),
    ],
)
def test_settings_are_checked(wrong, named):
    with pytest.raises(ValueError, match=named):
        study(**wrong)


def test_a_calibration_that_fails_is_named():
    plates_cm = {"default": {"aluminium": (0.0,)}}
    with pytest.raises(ValueError, match="case both, calibration etb: 1 exposure"):
        study(plates_cm=plates_cm).run(in_context())
