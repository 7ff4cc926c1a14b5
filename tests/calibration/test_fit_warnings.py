"""Noise that is not that of photons is reported, and a pixel that it hides is undetermined."""

import math
from dataclasses import replace

import pytest
import torch
from support.plates import AS_PROPOSED, cdte_scanner, flawed, plates_of

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.layer_slabs import LayerSlabs

EDGES_keV = (31.0, 37.0, 54.0, 60.0, 149.0)
CALIBRATORS = {"etb": EtbCal(), "as proposed": EtbCal(**AS_PROPOSED), "layer": LayerSlabs()}


def detector(n_pixels=150):
    return flawed(n_pixels=n_pixels, bias_keV=0.6 if n_pixels > 1 else 0.0)


def scaled(photons, factor, n_pixels=150, seed=3):
    """Counts of so many photons in air, times a factor: their variance over mean is the factor."""
    plates = plates_of(detector(n_pixels), photons / factor, seed)
    return replace(plates, counts=plates.counts * factor)


def warnings_of(plates, calibrator=None):
    return (calibrator or EtbCal()).fit(plates, cdte_scanner()).warnings


@pytest.mark.parametrize("kind", CALIBRATORS)
@pytest.mark.parametrize("factor", [25.0, 100.0, 0.1, 0.01])
def test_a_variance_that_is_not_the_mean_is_reported_with_its_size(kind, factor):
    """Scaled counts, means of frames, and noise from other sources than photons."""
    (warning,) = warnings_of(scaled(1e8, factor), CALIBRATORS[kind])
    found = float(warning.split(" times")[0].split()[-1])
    assert found == pytest.approx(math.sqrt(factor), rel=0.2)
    assert "photons of all frames" in warning
    assert ("too large" in warning) == (factor < 1)


def test_pixels_that_differ_in_the_lowest_threshold_are_named_as_a_cause():
    truth = flawed(n_pixels=150, edges_keV=EDGES_keV)
    drawn = torch.randn(150, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    thresholds_keV = truth.thresholds_keV.clone()
    thresholds_keV[:, 0] += 0.3 * drawn
    plates = plates_of(replace(truth, thresholds_keV=thresholds_keV), 1e8, seed=3)
    (warning,) = EtbCal().fit(plates, cdte_scanner(EDGES_keV)).warnings
    assert "hardly differ in the threshold of 31 keV" in warning


@pytest.mark.parametrize("normalisation", ["model", "nominal"])
def test_errors_of_second_order_of_relative_counts_are_said_to_be_theirs(normalisation):
    plates = plates_of(flawed(n_pixels=150, edges_keV=EDGES_keV), 1e9, seed=3)
    calibrator = EtbCal(normalisation=normalisation, comparison="counts")
    warnings = calibrator.fit(plates, cdte_scanner(EDGES_keV)).warnings
    assert any("scatter" in warning for warning in warnings)
    assert all("calibration=etb" in warning for warning in warnings)


@pytest.mark.physics
@pytest.mark.parametrize("kind", ["etb", "layer"])
def test_errors_exceed_their_error_bars_by_the_factor_that_is_reported(kind):
    truth = detector(600)
    found = CALIBRATORS[kind].fit(scaled(1e8, 25.0, 600), cdte_scanner())
    error = (found.thresholds_keV - truth.thresholds_keV)[:, 1]
    relative = error.std() / found.threshold_sd_keV[:, 1].square().mean().sqrt()
    reported = float(found.warnings[0].split(" times")[0].split()[-1])
    assert relative.item() == pytest.approx(reported, rel=0.1)


@pytest.mark.parametrize("kind", CALIBRATORS)
@pytest.mark.parametrize("photons", [1e6, 1e8])
def test_photons_are_not_reported(kind, photons):
    assert warnings_of(scaled(photons, 1.0), CALIBRATORS[kind]) == ()


@pytest.mark.parametrize("n_pixels", [1, 2, 5])
def test_few_pixels(n_pixels):
    """Ten draws of photons are not reported; a hundredfold variance is.

    In a single pixel, noise and what all pixels share are the same.
    """
    for seed in range(10):
        assert warnings_of(scaled(1e8, 1.0, n_pixels, seed)) == ()
    warnings = warnings_of(scaled(1e9, 100.0, n_pixels))
    assert sum("scatter" in warning for warning in warnings) == 1
    assert len(warnings) == (2 if n_pixels == 1 else 1)


@pytest.mark.parametrize("index", [0, 1])
def test_noise_above_one_threshold_only(index):
    """Electronic noise, for instance, counted above the lowest threshold."""
    plates = scaled(1e8, 1.0)
    counts = plates.counts.clone()
    generator = torch.Generator().manual_seed(0)
    more = torch.randn(counts[..., index].shape, generator=generator, dtype=counts.dtype)
    counts[..., index] += 4 * counts[..., index].sqrt() * more
    (warning,) = warnings_of(replace(plates, counts=counts))
    assert f"above {(40, 60)[index]} keV" in warning


def test_two_exposures_have_one_degree_of_freedom_at_the_second_threshold():
    def two(plates):
        return replace(
            plates,
            counts=plates.counts[:2],
            plates_cm=plates.plates_cm[:2],
            exposure=plates.exposure[:2],
        )

    assert warnings_of(two(scaled(1e8, 1.0))) == ()
    (warning,) = warnings_of(two(scaled(1e8, 100.0)))
    assert "above 60 keV" in warning


@pytest.mark.parametrize("kind", CALIBRATORS)
def test_expected_counts_are_said_to_be_without_noise(kind):
    plates = plates_of(detector())
    assert plates.noise_free
    assert warnings_of(plates, CALIBRATORS[kind]) == ()
    told_noisy = warnings_of(replace(plates, noise_free=False))
    assert "noise_free" in told_noisy[0]


@pytest.mark.parametrize("kind", ["etb", "layer"])
def test_a_threshold_with_a_standard_error_of_3_keV_is_undetermined(kind):
    """Four standard errors are then as long as the search."""
    found = CALIBRATORS[kind].fit(plates_of(detector(), 1e3, seed=3), cdte_scanner())
    assert found.flags["undetermined"].any()
    assert 2 < found.threshold_sd_keV[found.calibrated].max() < 3


@pytest.mark.parametrize("kind", CALIBRATORS)
def test_too_few_photons_are_refused(kind):
    with pytest.raises(ValueError, match=r"undetermined.*expose longer"):
        CALIBRATORS[kind].fit(plates_of(detector(), 300.0, seed=4), cdte_scanner())


def test_rates_are_refused():
    plates = scaled(1e8, 1.0)
    with pytest.raises(ValueError, match=r"undetermined.*photons of all frames"):
        EtbCal().fit(replace(plates, counts=plates.counts / 1e6), cdte_scanner())


@pytest.mark.parametrize("seed", range(4))
def test_noise_of_few_photons_is_no_common_bias(seed):
    """A dozen pixels whose thresholds are known to some 3 keV."""
    warnings = warnings_of(plates_of(detector(16), 1e3, seed))
    assert not any("correct thresholds_keV" in warning for warning in warnings)
