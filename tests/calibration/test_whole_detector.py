"""Pixels, dead times and scatter from one phantom scan."""

from dataclasses import replace

import pytest
import torch
from support.phantom_scans import (
    AIR_VIEWS,
    AMPLITUDE,
    NONPARALYSABLE_s,
    PARALYSABLE_s,
    detector,
    piled_up_scan,
    scanner,
)

from pcctlearn.calibration.confusion import Information, correlated, taken_for
from pcctlearn.calibration.whole_detector import WholeDetector
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.pileup import PileUp
from pcctlearn.scans.file import write_scan
from pcctlearn.studies.whole_detector_calibration import WholeDetectorCalibration
from pcctlearn.studies.whole_detector_report import information_sentences, names_of

N = 36
TAU_s = torch.tensor(PARALYSABLE_s).double() + NONPARALYSABLE_s


def errors(found, n=N):
    """Of thresholds and skew, and both over their standard deviations, in calibrated pixels."""
    pixels, true = found.pixels.as_panel((n,)), detector(n)
    good = pixels.calibrated
    T = (pixels.thresholds_keV - true.thresholds_keV)[good]
    x = (pixels.thickness_cm - true.thickness_cm)[good]
    return T, x, T / pixels.threshold_sd_keV[good]


def total(found):
    return found.dead_times.paralysable_s + found.dead_times.nonparalysable_s


@pytest.fixture(name="noisy", scope="module")
def _noisy():
    torch.set_default_dtype(torch.float64)
    scan = piled_up_scan(N, 36, noisy=True)
    return scan, WholeDetector(air_views=AIR_VIEWS).fit(scan, scanner())


def test_without_noise_it_finds_the_detector():
    """But for the prior of the thresholds, which is that of a scan with noise."""
    found = WholeDetector(air_views=AIR_VIEWS).fit(piled_up_scan(N, 36), scanner())
    T, x, in_error_bars = errors(found)
    assert len(T) > 0.6 * N
    assert in_error_bars.abs().max() < 1
    assert T.mean(0).abs().max() < 0.01
    assert x.abs().max() < 1e-4
    torch.testing.assert_close(total(found), TAU_s, rtol=2e-3, atol=0)
    assert found.amplitude == pytest.approx(AMPLITUDE, rel=1e-3)


@pytest.mark.physics
def test_errors_are_as_large_as_their_error_bars(noisy):
    _, found = noisy
    T, _, in_error_bars = errors(found)
    assert 0.7 < in_error_bars.square().mean().sqrt() < 1.3
    assert T.square().mean().sqrt() < 0.05
    sd = 1e-9 * found.covariance.shared.diagonal()[:4].sqrt()
    assert ((total(found) - TAU_s).abs() < 4 * sd).all()
    assert abs(found.amplitude - AMPLITUDE) < 4 * found.amplitude_sd


def test_a_bias_that_all_pixels_share_is_found(noisy):
    _, found = noisy
    true = detector(N).thresholds_keV[found.pixels.as_panel((N,)).calibrated].mean(0)
    mean = found.shared[found.unknowns.n_shared :]
    assert (mean - true).abs().max() < 0.05


@pytest.mark.parametrize("kind", ["skew", "dead_time", "scatter"])
def test_what_is_held_keeps_its_nominal_value(kind):
    scan = piled_up_scan(16, 16, noisy=True)
    found = WholeDetector(held=(kind,), max_steps=20, air_views=AIR_VIEWS).fit(scan, scanner())
    pixels = found.pixels
    held = {
        "skew": pixels.thickness_cm.abs().max(),
        "dead_time": total(found).max(),
        "scatter": torch.tensor(found.amplitude),
    }
    assert held[kind] == 0


def test_without_the_shape_of_the_scatter_none_is_fitted():
    scan = piled_up_scan(16, 16, noisy=True)
    found = WholeDetector(air_views=AIR_VIEWS, max_steps=6).fit(
        replace(scan, scatter=None), scanner()
    )
    assert found.amplitude is None
    assert found.unknowns.n_shared == 5


def test_a_pixel_unlike_the_others_does_not_spoil_them(noisy):
    """The others are calibrated as if it were dead."""
    scan, _ = noisy
    drifting, dead = scan.counts.clone(), scan.counts.clone()
    drifting[:, :, 0, N // 2] *= torch.linspace(0.8, 1.2, drifting.shape[1])
    dead[:, :, 0, N // 2] = 0
    found, wanted = (
        WholeDetector(air_views=AIR_VIEWS).fit(replace(scan, counts=counts), scanner())
        for counts in (drifting, dead)
    )
    assert found.pixels.flags["unlike the others"][0, N // 2]
    assert torch.equal(found.pixels.calibrated, wanted.pixels.calibrated)
    torch.testing.assert_close(total(found), total(wanted), rtol=1e-3, atol=0)


def test_a_missing_filter_is_taken_for_what_is_predicted(noisy):
    scan, found = noisy
    n = found.unknowns.n_shared
    nominal = scanner()
    thickness_cm = 0.005
    mean, shared = taken_for(
        found.counts, found.x, found.shared[:n], found.registered.arrow, thickness_cm=thickness_cm
    )
    filtered = torch.exp(-thickness_cm * linear_attenuation(["aluminium"], nominal.energies_keV)[0])
    # the same counts, explained with a spectrum that has the filter: the opposite errors
    harder = replace(scan, spectrum=scan.spectrum._replace(fluence=nominal.fluence * filtered))
    model = harder.spectral_model()
    other = WholeDetector(air_views=AIR_VIEWS).fit(harder, model)
    assert torch.equal(other.fitted, found.fitted)
    moved = (found.x - other.x).mean(0)
    torch.testing.assert_close(moved[1:], mean[1:], rtol=0.3, atol=2e-3)
    torch.testing.assert_close(
        (found.shared - other.shared)[n - 1], shared[n - 1], rtol=0.3, atol=2e-3
    )


def test_what_cannot_be_told_apart_is_named(noisy):
    _, found = noisy
    text = " ".join(information_sentences(found))
    assert "looks like" in text
    assert "aluminium before the tube" in text
    pixel, shared = names_of(found)
    alone = Information.of(found.registered.arrow.covariance(), found.unknowns.n_shared)
    sentences = list(correlated(alone.means, [*pixel, *shared]))
    sd = alone.means.diagonal().sqrt()
    strong = (alone.means / sd[:, None] / sd).abs().tril(-1) > 0.95
    assert len(sentences) == int(strong.sum())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"view_s": None}, "calibration.view_s"),
        ({"scatter": torch.zeros(4, 16, 1, 16)}, "leave the dataset scatter out"),
        ({"line_integrals": None}, "line_integrals"),
        ({"materials": ("water", "iodine")}, "water,iodine"),
    ],
)
def test_what_it_needs_is_named(change, named):
    with pytest.raises(ValueError, match=named):
        WholeDetector().fit(replace(piled_up_scan(16, 16), **change), scanner())


def test_rates_beyond_the_greatest_one_are_refused():
    scan = piled_up_scan(24, 24)
    beyond = PileUp([1.2e-6] * 4, [0.0] * 4, scan.view_s)
    with torch.no_grad():
        counts = beyond(scan.counts.movedim(0, -1)).movedim(-1, 0)
        air = beyond(scan.air.movedim(0, -1)).movedim(-1, 0)
    with pytest.raises(ValueError, match="greatest rate"):
        WholeDetector().fit(replace(scan, counts=counts, air=air), scanner())


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"materials": "CdTe"}, "materials must be"),
        ({"held": ("flux",)}, "flux: accepted are"),
        ({"amplitude": -1.0}, "amplitude"),
        ({"air_views": 0.0}, "air_views"),
        ({"view_s": 0.0}, "view_s"),
    ],
)
def test_settings_are_checked(setting, named):
    with pytest.raises(ValueError, match=named):
        WholeDetector(**setting)


def test_a_tube_that_drifts_is_refused(tmp_path):
    scan = piled_up_scan(24, 24)
    steady, drifting = (1 + size * torch.linspace(-1, 1, 24).double() for size in (0.005, 0.05))
    for exposure, name in ((steady, "steady"), (drifting, "drifting")):
        write_scan(tmp_path / f"{name}.h5", replace(scan, exposure=exposure))
    WholeDetectorCalibration(str(tmp_path / "steady.h5"), WholeDetector())
    with pytest.raises(ValueError, match=r"drifting\.h5: the exposures .* differ by 10\.5 %"):
        WholeDetectorCalibration(str(tmp_path / "drifting.h5"), WholeDetector())


def test_warnings_do_not_call_a_fitted_threshold_nominal():
    scan = piled_up_scan(24, 24, noisy=True)
    more = torch.randn(scan.counts.shape, generator=torch.Generator().manual_seed(2))
    counts = scan.counts + 3 * scan.counts.sqrt() * more.to(scan.counts)
    found = WholeDetector(air_views=AIR_VIEWS).fit(replace(scan, counts=counts), scanner())
    (warning,) = [text for text in found.pixels.warnings if "error bars" in text]
    assert "store the photons of all frames" in warning
    assert "nominal by definition" not in warning
