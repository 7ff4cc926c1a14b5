"""Calibration through the decomposition: as good as the counts allow."""

from dataclasses import replace

import pytest
import torch
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration import layer_problem
from pcctlearn.calibration.base import Calibrator
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.layer_slabs import LayerSlabs, slab_rays
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.simulation.detector_errors import DetectorErrors

EDGES_KEV = (31.0, 37.0, 54.0, 60.0, 149.0)


def test_it_is_a_calibrator():
    assert isinstance(LayerSlabs(), Calibrator)


@pytest.mark.parametrize("bias_keV", [1.0, 4.4])
def test_without_noise_it_is_exact(bias_keV):
    truth = flawed(n_pixels=20, bias_keV=bias_keV)
    found = LayerSlabs().fit(plates_of(truth), cdte_scanner())
    assert found.calibrated.all()
    assert (found.thresholds_keV - truth.thresholds_keV).abs().max() < 1e-5
    assert (found.thickness_cm - truth.thickness_cm).abs().max() < 1e-7
    gain = truth.gain / truth.gain.median()
    assert (found.gain - gain).abs().max() < 1e-5


@pytest.mark.physics
def test_head_to_head_with_etb_cal():
    """Bias and skew of the abdomen's detector, 1e8 photons.

    The standard deviation of the threshold error was 0.0060 keV, which is the Cramér–Rao bound of
    the counts. ETB-Cal had 0.0065 keV, and the layer without the weights C⁻¹ had 0.0225 keV.
    """
    scanner = cdte_scanner()
    errors = DetectorErrors(0.0035, 0.0012, [-0.006, 0.006], bias_sd_keV=1 / 3)
    truth = errors.pixels(torch.tensor([40.0, 60.0], dtype=torch.float64), 896, seed=0)
    plates = plates_of(truth, 1e8, seed=3)
    found = LayerSlabs().fit(plates, scanner)
    error = (found.thresholds_keV - truth.thresholds_keV)[:, 1]
    other = EtbCal().fit(plates, scanner).thresholds_keV - truth.thresholds_keV
    assert error.std() < 0.0066
    assert error.std() < other[:, 1].std()
    within = error.abs() < found.threshold_sd_keV[:, 1]
    assert 0.63 < within.double().mean() < 0.74


def test_blocks_of_pixels_are_one_detector(monkeypatch):
    plates = plates_of(flawed(n_pixels=10), 1e8, seed=3)
    whole = LayerSlabs().fit(plates, cdte_scanner())
    monkeypatch.setattr(layer_problem, "_BLOCK", 4 * len(plates.counts))
    parts = LayerSlabs().fit(plates, cdte_scanner())
    # the weights of a block are those of its median pixel
    torch.testing.assert_close(parts.thresholds_keV, whole.thresholds_keV, rtol=0, atol=1e-4)
    torch.testing.assert_close(parts.gain, whole.gain, rtol=1e-5, atol=0)


def test_exposures_that_differ_are_divided_out():
    truth = flawed(n_pixels=6)
    plates = plates_of(truth)
    exposure = torch.tensor([1.0, 0.7, 1.3, 0.9, 1.1], dtype=torch.float64)
    other = replace(plates, counts=plates.counts * exposure[:, None, None], exposure=exposure)
    found = LayerSlabs().fit(other, cdte_scanner())
    torch.testing.assert_close(found.thresholds_keV, truth.thresholds_keV, rtol=0, atol=1e-9)


def test_four_thresholds_with_more_bins_than_materials():
    truth = flawed(n_pixels=6, edges_keV=EDGES_KEV)
    found = LayerSlabs().fit(plates_of(truth), cdte_scanner(EDGES_KEV))
    assert found.calibrated.all()
    torch.testing.assert_close(found.thresholds_keV, truth.thresholds_keV, rtol=0, atol=1e-7)


def test_the_calibrated_layer_decomposes_other_lengths():
    truth = flawed(n_pixels=20)
    scanner = cdte_scanner()
    found = LayerSlabs().fit(plates_of(truth, 1e8, seed=3), scanner)
    A = torch.tensor([[20.0, 0.0], [5.0, 4.0]], dtype=torch.float64)[:, None].expand(-1, 20, -1)
    counts = truth.spectral_model(scanner)(A)
    gain = truth.gain.median()

    def error(pixels):
        spectra = gain * pixels.spectral_model(scanner).spectra()
        return (decompose(counts, spectra, scanner.attenuation).x - A).square().mean().sqrt()

    assert error(found) < 0.02 * error(flawed(n_pixels=20, skew_cm=0.0, bias_keV=0.0))


def test_pixels_that_cannot_be_used_are_flagged():
    plates = plates_of(flawed(n_pixels=10), 1e8, seed=3)
    plates.counts[:, 4] = 0
    plates.counts[2, 5, 1] = plates.counts[2, 5, 0] + 1  # an empty bin
    plates.counts[3, 6] *= 1.05  # not behind its plate
    found = LayerSlabs().fit(plates, cdte_scanner())
    assert (~found.calibrated).nonzero().flatten().tolist() == [4, 5, 6]
    assert found.flags["without counts"][4]
    assert found.flags["without counts in a bin"][5]
    assert found.flags["poor fit"][6]


def test_settings_are_checked():
    with pytest.raises(ValueError, match="basis must be"):
        LayerSlabs(basis="aluminium")
    with pytest.raises(ValueError, match="max_steps"):
        LayerSlabs(max_steps=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"materials": ("PMMA",)}, "PMMA"),
        ({"exposure": None}, "exposure of each plate"),
    ],
)
def test_what_it_needs_is_named(change, named):
    plates = replace(plates_of(flawed(n_pixels=6)), **change)
    with pytest.raises(ValueError, match=named):
        LayerSlabs().fit(plates, cdte_scanner())


def test_two_exposures_do_not_determine_four_thresholds():
    plates = plates_of(flawed(n_pixels=6, edges_keV=EDGES_KEV))
    two = {name: getattr(plates, name)[:2] for name in ("counts", "plates_cm", "exposure")}
    with pytest.raises(ValueError, match=r"2 exposure\(s\)"):
        LayerSlabs().fit(replace(plates, **two), cdte_scanner(EDGES_KEV))


def test_a_detector_with_empty_bins_only_is_refused():
    plates = plates_of(flawed(n_pixels=6))
    for pixel in range(6):
        plates.counts[pixel % 5, pixel, 1] = plates.counts[pixel % 5, pixel, 0]
    with pytest.raises(ValueError, match="expose longer"):
        LayerSlabs().fit(plates, cdte_scanner())


def test_two_thresholds_at_their_limits_leave_a_bin_between_them():
    """A bin without photons has no decomposition."""
    truth = flawed(n_pixels=2, edges_keV=EDGES_KEV)
    plates, scanner = plates_of(truth), cdte_scanner(EDGES_KEV)
    slabs = slab_rays(plates, scanner, ("water", "aluminium"), ("CdTe",), "layer_slabs")
    problem = layer_problem.LayerProblem(
        slabs.rays, slabs.model, ("water", "aluminium"), plates.thresholds_keV.double()
    )
    x = problem.start()
    x[:, 3], x[:, 4] = 70.0, 50.0
    assert (problem.thresholds(x).diff(dim=-1) > 0.05).all()
    assert (problem.spectra(x).sum(-1) > 0).all()
