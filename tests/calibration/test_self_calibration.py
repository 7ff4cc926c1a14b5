"""Calibration on the scan of an unknown object."""

from dataclasses import replace

import pytest
import torch
from support.plates import cdte_scanner, flawed

from pcctlearn.calibration.self_calibration import SelfCalibration
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.phantoms.ellipses import Ellipse, EllipsePhantom
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.noise import draw_counts
from pcctlearn.scans.record import ScanRecord
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import VolumeGrid

EDGES_keV = (31.0, 37.0, 54.0, 60.0, 149.0)
COLUMNS, VIEWS = 80, 72
BEAM = FanBeam(VIEWS, COLUMNS, 0.45, 75.0, 108.5)
OBJECT = EllipsePhantom(
    [
        Ellipse((0.5, -0.3), (10.0, 7.5), (1.0, 0.0)),
        Ellipse((4.0, 1.0), (1.5, 1.2), (-0.2, 0.6)),
        Ellipse((-3.5, 1.5), (1.2, 1.8), (-0.1, 0.4)),
        Ellipse((-1.0, -3.0), (1.6, 1.1), (0.05, 0.0)),
    ]
)
BOTTLE = EllipsePhantom([Ellipse((0.5, -0.3), (10.0, 7.5), (1.0, 0.0))])
SKULL = EllipsePhantom(
    [Ellipse((0.0, 0.0), (9.0, 9.0), (1.0, 0.6)), Ellipse((0.0, 0.0), (8.2, 8.2), (0.0, -0.6))]
)


def detector(**settings):
    """Pixels all of whose thresholds are biased, by the energy scale of the pixel."""
    truth = flawed(n_pixels=COLUMNS, skew_cm=0.002, bias_keV=0.3, edges_keV=EDGES_keV, **settings)
    generator = torch.Generator().manual_seed(9)
    scale = 1 + 0.005 * torch.randn(COLUMNS, 1, generator=generator)
    return replace(truth, thresholds_keV=truth.thresholds_keV * scale)


def scan_of(truth, photons=1e7, noise=True, phantom=OBJECT, edges_keV=EDGES_keV) -> ScanRecord:
    scanner = cdte_scanner(edges_keV)
    model = truth.spectral_model(scanner)
    A = phantom.line_integrals(*BEAM.rays()).movedim(0, -1)
    with torch.no_grad():
        scale = photons / float(scanner.fluence.sum())
        counts, air = scale * model(A), scale * model.air()
    if noise:
        generator = torch.Generator().manual_seed(5)
        counts = draw_counts(counts, generator)
        air = draw_counts(VIEWS * air, generator) / VIEWS
    return ScanRecord(
        name="object",
        geometry=BEAM,
        grid=VolumeGrid(1, 64, 64, 0.5),
        thresholds_keV=scanner.thresholds.edges_keV,
        air=air.T[:, None],
        counts=counts.movedim(-1, 0)[:, :, None],
    )


def seen(phantom=OBJECT):
    """Pixels behind the object in a quarter of the views or more."""
    A = phantom.line_integrals(*BEAM.rays()).sum(0)
    return (A > 1).double().mean(0) > 0.25


def threshold_error(found, truth):
    return (found.thresholds_keV[0] - truth.thresholds_keV)[seen() & found.calibrated[0]]


@pytest.fixture(name="nominal", scope="module")
def _nominal():
    return cdte_scanner(EDGES_keV)


def test_without_noise_the_bins_determine_every_pixel(nominal):
    """Air and deviance are exact, so that only the prior keeps pixels from the truth."""
    truth = detector()
    scan = scan_of(truth, 1e11, noise=False)
    wide = {"gain_sd": 10.0, "thickness_sd_cm": 1.0, "threshold_sd_keV": 100.0}
    found = SelfCalibration(flatness=False, **wide).fit(scan, nominal)
    assert found.calibrated[0][seen()].all()
    assert threshold_error(found, truth).abs().max() < 2e-3
    assert (found.thickness_cm[0] - truth.thickness_cm)[seen()].abs().max() < 1e-6


@pytest.mark.physics
def test_errors_are_as_large_as_their_error_bars(nominal):
    truth = detector()
    found = SelfCalibration(flatness=False).fit(scan_of(truth), nominal)
    error = (found.thresholds_keV[0] - truth.thresholds_keV)[seen()]
    relative = error / found.threshold_sd_keV[0][seen()]
    assert (relative.square().mean(0).sqrt() - 1).abs().max() < 0.3


def stripes(found, truth, phantom, nominal):
    """RMS difference of neighbouring columns in the mean over the views, at 70 keV."""
    A = phantom.line_integrals(*BEAM.rays()).movedim(0, -1)
    with torch.no_grad():
        counts = truth.spectral_model(nominal)(A) / truth.spectral_model(nominal).air()
        pixels = found.as_panel((COLUMNS,)).spectral_model(nominal)
        spectra = pixels.spectra() / pixels.air()[..., None]
        area = decompose(1e9 * counts, 1e9 * spectra, nominal.attenuation).x
    error = ((area - A) @ attenuation_table(nominal.materials, [70.0])[:, 0]).mean(0)
    inside = (A.sum(-1) > 1).all(0)
    return error[inside].diff().square().mean().sqrt()


@pytest.mark.parametrize("photons", [1e6, 1e7])
def test_flat_rings_add_to_what_the_bins_say(nominal, photons):
    truth = detector()
    scan = scan_of(truth, photons, phantom=BOTTLE)
    bins, both = (
        SelfCalibration(window_columns=7, flatness=flatness).fit(scan, nominal)
        for flatness in (False, True)
    )
    left = [stripes(one, truth, BOTTLE, nominal) for one in (bins, both)]
    nominal_pixels = replace(
        bins,
        thresholds_keV=bins.nominal_keV.expand_as(bins.thresholds_keV),
        thickness_cm=0 * bins.thickness_cm,
    )
    assert left[0] < stripes(nominal_pixels, truth, BOTTLE, nominal) / 2
    assert left[1] < 0.8 * left[0]


def test_a_flawless_detector_stays_within_its_error_bars(nominal):
    truth = flawed(n_pixels=COLUMNS, skew_cm=0.0, bias_keV=0.0, edges_keV=EDGES_keV)
    found = SelfCalibration(window_columns=15).fit(scan_of(truth), nominal)
    moved = (found.thresholds_keV[0] - found.nominal_keV) / found.threshold_sd_keV[0]
    assert moved.square().mean().sqrt() < 1.3


def test_a_circle_about_the_axis_is_not_taken_for_a_ring(nominal):
    """It is flat in no column, in any view: the deviance says that the pixels are as they are."""
    truth = detector()
    scan = scan_of(truth, phantom=SKULL)
    behind = seen(SKULL)
    errors = []
    for flatness in (False, True):
        found = SelfCalibration(window_columns=15, flatness=flatness).fit(scan, nominal)
        assert found.calibrated[0][behind].all()
        errors.append((found.thresholds_keV[0] - truth.thresholds_keV)[behind].std(0).mean())
    assert errors[1] < 1.1 * errors[0]


def test_rings_without_the_bins_take_a_circle_for_pixels(nominal):
    truth = detector()
    scan = scan_of(truth, phantom=SKULL)
    found = SelfCalibration(window_columns=15, deviance=False).fit(scan, nominal)
    both = SelfCalibration(window_columns=15).fit(scan, nominal)
    behind = seen(SKULL) & found.calibrated[0]
    alone, joint = (
        (one.thresholds_keV[0] - truth.thresholds_keV)[behind].std(0).mean()
        for one in (found, both)
    )
    assert alone > 1.5 * joint


def test_pixels_beside_the_object_say_so(nominal):
    found = SelfCalibration(flatness=False).fit(scan_of(detector()), nominal)
    (warning,) = found.warnings
    assert "calibrated by air and the prior alone" in warning
    beside = (OBJECT.line_integrals(*BEAM.rays()).sum(0) == 0).all(0)
    assert beside.any()
    sd = found.threshold_sd_keV[0]
    assert (sd[beside].amin(0) > sd[seen()].amax(0)).all()


def test_dead_pixels_are_flagged_and_spoil_no_neighbour(nominal):
    truth = detector()
    scan = scan_of(truth)
    assert scan.counts is not None
    scan.counts[:, :, 0, 40] = 0
    found = SelfCalibration(window_columns=15).fit(scan, nominal)
    assert found.flags["silent"][0, 40]
    assert threshold_error(found, truth).std(0).mean() < 0.1


def test_steps_that_overshoot_come_to_rest(nominal):
    """A thin object determines little; without halved steps one pixel goes back and forth."""
    thin = EllipsePhantom([Ellipse((0.0, 0.0), (1.2, 1.0), (1.0, 0.0))])
    found = SelfCalibration(flatness=False).fit(scan_of(detector(), 3e7, phantom=thin), nominal)
    assert found.calibrated.all()


def test_counts_that_are_not_photons_are_reported(nominal):
    scan = scan_of(detector())
    assert scan.counts is not None
    found = SelfCalibration(flatness=False).fit(
        replace(scan, counts=9 * scan.counts, air=9 * scan.air), nominal
    )
    (warning,) = (text for text in found.warnings if "chi-square" in text)
    assert float(warning.split(" is ")[1].split()[0]) == pytest.approx(9, rel=0.1)


def test_counts_that_are_a_mean_are_reported(nominal):
    scan = scan_of(detector())
    assert scan.counts is not None
    found = SelfCalibration(flatness=False).fit(
        replace(scan, counts=scan.counts / 9, air=scan.air / 9), nominal
    )
    assert any("not their mean or a rate" in warning for warning in found.warnings)


def test_air_that_was_flat_fielded_is_refused(nominal):
    scan = scan_of(detector())
    air = scan.air.mean(-1, keepdim=True)
    flat = replace(
        scan, counts=scan.counts * (air / scan.air)[:, None], air=air.expand_as(scan.air)
    )
    with pytest.raises(ValueError, match="flat-field"):
        SelfCalibration(flatness=False).fit(flat, nominal)


def test_too_few_counts_are_refused(nominal):
    """No ray has ten counts in each bin, so that the prior alone would decide."""
    with pytest.raises(ValueError, match="expose longer"):
        SelfCalibration(flatness=False).fit(scan_of(detector(), photons=100.0), nominal)


def test_a_missing_view_is_named(nominal):
    scan = scan_of(detector())
    assert scan.counts is not None
    scan.counts[:, 7] = torch.nan
    with pytest.raises(ValueError, match="view 7"):
        SelfCalibration().fit(scan, nominal)


def test_an_upper_limit_is_refused():
    limited = (*EDGES_keV[:-1], 90.0)
    scan = replace(scan_of(detector()), thresholds_keV=torch.tensor(limited))
    with pytest.raises(ValueError, match="without upper limit"):
        SelfCalibration().fit(scan, cdte_scanner(limited))


def test_a_scan_that_tells_too_little_is_refused(nominal):
    scan = scan_of(detector())
    assert scan.counts is not None
    two_bins = scan_of(flawed(n_pixels=COLUMNS), edges_keV=(40.0, 60.0, 149.0))
    few_views = replace(scan, counts=scan.counts[:, ::3])
    few_columns = replace(scan, counts=scan.counts[..., ::2], air=scan.air[..., ::2])
    for wrong, scanner, named in (
        (two_bins, cdte_scanner(), "leave nothing over 2 materials"),
        (few_views, nominal, "24 views"),
        (few_columns, nominal, "window_columns=19"),
    ):
        with pytest.raises(ValueError, match=named):
            SelfCalibration().fit(wrong, scanner)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="window_columns"):
        SelfCalibration(window_columns=30)
    with pytest.raises(ValueError, match="gain_sd"):
        SelfCalibration(gain_sd=0.0)
    with pytest.raises(ValueError, match="deviance=true"):
        SelfCalibration(deviance=False, flatness=False)
