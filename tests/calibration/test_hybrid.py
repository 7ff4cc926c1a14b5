"""The hybrid: as good as the layer, and better where the reference threshold scatters."""

from dataclasses import replace

import pytest
import torch
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration.base import Calibrator
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.hybrid import Hybrid
from pcctlearn.calibration.layer_slabs import LayerSlabs
from pcctlearn.simulation.detector_errors import DetectorErrors

NOMINAL = torch.tensor([40.0, 60.0], dtype=torch.float64)
ENERGY_SCALE = DetectorErrors(0.0035, 0.0012, (-0.006, 0.006), 0.1, 0.005, 0.05)


def test_it_is_a_calibrator():
    assert isinstance(Hybrid(), Calibrator)


@pytest.mark.parametrize("n_pixels", [8, 40])
def test_without_noise_it_is_exact(n_pixels):
    """ETB-Cal is exact, too, so that its prior does not matter."""
    truth = flawed(n_pixels=n_pixels)
    found = Hybrid().fit(plates_of(truth), cdte_scanner())
    assert found.calibrated.all()
    assert (found.thresholds_keV - truth.thresholds_keV).abs().max() < 1e-5
    assert (found.thickness_cm - truth.thickness_cm).abs().max() < 1e-7


def test_a_reference_that_does_not_scatter_stays_nominal():
    """Then it is the layer, apart from the hundredth that ETB-Cal's result weighs."""
    truth = flawed(n_pixels=60, bias_keV=0.4)
    plates = plates_of(truth, 1e8, seed=3)
    found = Hybrid().fit(plates, cdte_scanner())
    layer = LayerSlabs().fit(plates, cdte_scanner())
    start = EtbCal().fit(plates, cdte_scanner())
    assert (found.thresholds_keV[:, 0] == 40).all()
    assert (found.threshold_sd_keV[:, 0] == 0).all()
    moved = (found.thresholds_keV - layer.thresholds_keV).abs().max()
    assert 0 < moved < 0.05 * (start.thresholds_keV - layer.thresholds_keV).abs().max()


def test_a_reference_that_follows_the_energy_scale_is_refined():
    truth = ENERGY_SCALE.pixels(NOMINAL, 80, seed=0)
    scanner, plates = cdte_scanner(), plates_of(truth, 1e9, seed=3)
    found = Hybrid().fit(plates, scanner)
    layer = LayerSlabs().fit(plates, scanner)

    def spread(pixels):
        return (pixels.thresholds_keV - truth.thresholds_keV).std(0)

    assert found.calibrated.all()
    assert (spread(found) < 0.6 * spread(layer)).all()
    assert abs(float(found.thresholds_keV[:, 0].mean()) - 40) < 0.05


@pytest.mark.parametrize(
    "errors", [DetectorErrors(0.0035, 0.0012, (-0.006, 0.006), 0.33), ENERGY_SCALE]
)
def test_four_thresholds_need_what_four_bins_leave_over_two_materials(errors):
    """The layer alone loses half of the counts' information, and is worse than ETB-Cal."""
    edges_keV = (31.0, 37.0, 54.0, 60.0, 149.0)
    truth = errors.pixels(torch.tensor(edges_keV[:-1]).double(), 100, seed=0)
    scanner, plates = cdte_scanner(edges_keV), plates_of(truth, 1e8, seed=3)

    def spread(calibrator):
        found = calibrator.fit(plates, scanner)
        return (found.thresholds_keV - truth.thresholds_keV)[found.calibrated][:, 1:].std(0)

    hybrid = spread(Hybrid())
    assert (hybrid < spread(EtbCal())).all()
    assert (hybrid < 0.5 * spread(LayerSlabs())).all()


@pytest.mark.physics
def test_error_bars_hold_for_all_thresholds():
    truth = ENERGY_SCALE.pixels(NOMINAL, 300, seed=0)
    found = Hybrid().fit(plates_of(truth, 1e8, seed=3), cdte_scanner())
    within = (found.thresholds_keV - truth.thresholds_keV).abs() < found.threshold_sd_keV
    # the scatter is estimated from the same pixels
    assert ((within.double().mean(0) > 0.58) & (within.double().mean(0) < 0.78)).all()


def test_two_skew_materials_need_their_prior():
    """The difference of both lies in a direction that five plates hardly see."""
    truth = flawed(n_pixels=20)
    prior_cm = {"CdTe": 0.005, "aluminium": 0.2}
    hybrid = Hybrid(materials=list(prior_cm), prior_cm=prior_cm)
    found = hybrid.fit(plates_of(truth, 1e8, seed=3), cdte_scanner())
    assert found.calibrated.all()
    assert found.thickness_cm[:, 1].abs().max() < 1.0
    assert (found.thresholds_keV - truth.thresholds_keV).abs().max() < 0.05


def test_pixels_that_the_layer_cannot_use_keep_their_first_calibration():
    truth = flawed(n_pixels=10)
    plates = plates_of(truth, 1e8, seed=3)
    plates.counts[:, 4] = 0
    plates.counts[4, 5] = plates.counts[4, 5, 1]  # an empty bin
    start = EtbCal().fit(plates, cdte_scanner())
    assert start.calibrated[5] or start.flags["poor fit"][5]
    found = Hybrid().fit(plates, cdte_scanner())
    assert not found.calibrated[4]
    assert torch.equal(found.calibrated[5], start.calibrated[5])
    torch.testing.assert_close(found.thresholds_keV[5], start.thresholds_keV[5])


@pytest.mark.parametrize(
    ("change", "named"),
    [({"materials": ("PMMA",)}, "PMMA"), ({"exposure": None}, "calibration=hybrid")],
)
def test_what_it_needs_is_named(change, named):
    plates = replace(plates_of(flawed(n_pixels=6)), **change)
    with pytest.raises(ValueError, match=named):
        Hybrid().fit(plates, cdte_scanner())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"basis": "aluminium"}, "basis must be"),
        ({"max_steps": 0}, "max_steps"),
        ({"prior_cm": {"PMMA": 1.0}}, "prior_cm names"),
    ],
)
def test_settings_are_checked(settings, named):
    with pytest.raises(ValueError, match=named):
        Hybrid(**settings)
