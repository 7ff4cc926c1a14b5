"""Calibration on the scan of a known phantom."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.plates import cdte_scanner, flawed

from pcctlearn.calibration.layer_phantom import LayerPhantom
from pcctlearn.phantoms.ellipses import water_calcium_phantom
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.scans.record import ScanRecord
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import VolumeGrid

COLUMNS = 24
PHANTOM = water_calcium_phantom()


def scan_of(truth, photons=None, edges_keV=(40.0, 60.0, 149.0), n_views=24) -> ScanRecord:
    """A fan-beam scan of the phantom; without ``photons``, expected counts."""
    scanner = cdte_scanner(edges_keV)
    beam = FanBeam(n_views, COLUMNS, 2.0, 75.0, 108.5)
    A = PHANTOM.line_integrals(*beam.rays())
    model = truth.spectral_model(scanner)
    with torch.no_grad():
        air = model.air()
        scale = 1.0 if photons is None else photons / float(above_from_bins(air)[:, 0].median())
        counts = scale * model(A.movedim(0, -1))
        if photons is not None:
            counts = draw_counts(counts, torch.Generator().manual_seed(5))
    return ScanRecord(
        name="phantom",
        geometry=beam,
        grid=VolumeGrid(1, 64, 64, 0.5),
        thresholds_keV=scanner.thresholds.edges_keV,
        air=scale * air.T[:, None],
        counts=counts.movedim(-1, 0)[:, :, None],
        line_integrals=A[:, :, None],
        materials=("water", "calcium"),
    )


def detector(**settings):
    return flawed(n_pixels=COLUMNS, **settings)


def test_without_noise_it_is_exact():
    truth = detector()
    found = LayerPhantom().fit(scan_of(truth), cdte_scanner())
    good = found.calibrated[0]
    assert good.sum() > COLUMNS / 2
    assert found.warnings == ()
    assert (found.thresholds_keV[0] - truth.thresholds_keV)[good].abs().max() < 1e-5
    assert (found.thickness_cm[0] - truth.thickness_cm)[good].abs().max() < 1e-7
    ratio = (found.gain[0] / truth.gain)[good]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-5, atol=0)


def test_pixels_beside_the_phantom_are_named_and_left_nominal():
    found = LayerPhantom().fit(scan_of(detector()), cdte_scanner())
    beside = found.flags["beside the phantom"][0]
    assert beside[0]
    assert beside[-1]
    assert torch.equal(found.calibrated[0], ~beside)
    assert (found.thresholds_keV[0][beside] == found.nominal_keV).all()


@pytest.mark.physics
def test_errors_are_as_large_as_their_error_bars():
    """Also at few counts: 2.5 error bars with a Jacobian that depends on the noise."""
    truth = detector(bias_keV=0.4)
    found = LayerPhantom().fit(scan_of(truth, 1e5, n_views=360), cdte_scanner())
    good = found.calibrated[0]
    error = (found.thresholds_keV[0] - truth.thresholds_keV)[good][:, 1]
    relative = error / found.threshold_sd_keV[0][good][:, 1]
    assert 0.7 < relative.square().mean().sqrt() < 1.3
    assert found.warnings == ()


def test_noise_that_is_not_that_of_photons_is_reported():
    scan = scan_of(detector(bias_keV=0.4), 1e5)
    scan = replace(scan, counts=25 * scan.counts, air=25 * scan.air)
    (warning,) = LayerPhantom().fit(scan, cdte_scanner()).warnings
    assert float(warning.split(" times")[0].split()[-1]) == pytest.approx(5, rel=0.1)


def test_four_thresholds():
    edges_keV = (31.0, 37.0, 54.0, 60.0, 149.0)
    truth = detector(edges_keV=edges_keV)
    found = LayerPhantom().fit(scan_of(truth, edges_keV=edges_keV), cdte_scanner(edges_keV))
    good = found.calibrated[0]
    assert good.any()
    assert (found.thresholds_keV[0] - truth.thresholds_keV)[good].abs().max() < 1e-5


def test_line_integrals_elsewhere_are_refused_with_the_order_that_fits():
    scan = scan_of(detector(), 1e9)
    assert scan.line_integrals is not None
    moved = scan.line_integrals.roll(3, 1)
    with pytest.raises(ValueError, match="overlap") as refused:
        LayerPhantom().fit(replace(scan, line_integrals=moved), cdte_scanner())
    code = str(refused.value).rpartition("line_integrals = ")[2]
    arrays = {"line_integrals": moved.numpy(), "numpy": np}
    right = torch.from_numpy(np.ascontiguousarray(eval(code, arrays)))
    torch.testing.assert_close(right, scan.line_integrals)


def test_line_integrals_of_another_phantom_are_refused():
    scan = scan_of(detector(), 1e9)
    other = water_calcium_phantom((9.6, 9.6)).line_integrals(*scan.geometry.rays())
    with pytest.raises(ValueError, match="where it stood"):
        LayerPhantom().fit(replace(scan, line_integrals=other[:, :, None]), cdte_scanner())


@pytest.mark.parametrize("change", [lambda A: A.flip(0), lambda A: 10 * A])
def test_line_integrals_in_another_order_or_unit_are_refused(change):
    scan = scan_of(detector(), 1e9)
    with pytest.raises(ValueError, match=r"in g/cm², in the order of materials \(water, calcium\)"):
        LayerPhantom().fit(
            replace(scan, line_integrals=change(scan.line_integrals)), cdte_scanner()
        )


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_a_missing_view_is_named(value):
    scan = scan_of(detector(), 1e9)
    assert scan.counts is not None
    scan.counts[:, 5] = value
    with pytest.raises(ValueError, match=r"1 of 24 views hold no counts.*\(5\)"):
        LayerPhantom().fit(scan, cdte_scanner())


def test_dead_pixels_are_flagged():
    scan = scan_of(detector(), 1e9)
    assert scan.counts is not None
    scan.counts[:, :, 0, 12] = 0
    found = LayerPhantom().fit(scan, cdte_scanner())
    assert found.flags["silent"][0, 12]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"line_integrals": None}, "line_integrals"),
        ({"materials": ("water", "iodine")}, "water,iodine"),
        ({"line_integrals": torch.zeros(2, 24, 1, COLUMNS).double()}, "no pixel sees"),
    ],
)
def test_what_it_needs_is_named(change, named):
    scan = replace(scan_of(detector()), **change)
    with pytest.raises(ValueError, match=named):
        LayerPhantom().fit(scan, cdte_scanner())


def test_settings_are_checked():
    with pytest.raises(ValueError, match="materials must be"):
        LayerPhantom(materials="CdTe")
    with pytest.raises(ValueError, match="max_steps"):
        LayerPhantom(max_steps=0)
