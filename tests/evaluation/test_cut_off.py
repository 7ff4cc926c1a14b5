"""Objects that extend beyond the detector are named, and the remedy reduces their errors."""

import re
from dataclasses import replace

import pytest
import torch
from support.truth import image, sinogram

from pcctlearn.evaluation.cut_off import cut_off_percent, cut_off_warning
from pcctlearn.scan import Scan
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import ImageGrid, changed_grid

pytestmark = pytest.mark.filterwarnings("ignore:truncated")

FAN = FanBeam(120, 70, 0.4, 62.5, 109.7)
DISPLACED = replace(FAN, offset_cm=5.0)
BEAMS = {
    "fan": FAN,
    "displaced fan": DISPLACED,
    "parallel": ParallelBeam(120, 66, 0.24),
}


def disc(radius_cm):
    return [(0.0, 0.0, radius_cm, radius_cm, 0.0, 1.0)]


def scan_of(beam, radius_cm):
    return Scan(line_integrals=sinogram(beam, disc(radius_cm))[None, None, :, None])


@pytest.mark.parametrize("beam", BEAMS.values(), ids=BEAMS)
def test_a_disc_wider_than_the_detector_is_named_and_the_remedy_works(beam):
    grid, radius = beam.default_grid(), beam.measured_radius_cm
    scan = scan_of(beam, 1.3 * radius)
    percent = cut_off_percent(scan, beam)
    sentence = cut_off_warning(percent, beam, grid)
    assert percent == 100
    remedy = {key: int(n) for key, n in re.findall(r"grid\.(n_.)=(\d+)", sentence)}
    wider = changed_grid(grid, **remedy)
    assert "extrapolated" in cut_off_warning(percent, beam, wider)
    rows = scan.at("line_integrals")[0, 0, :, 0]
    before, after = (rms_error(beam, of, rows, 1.3 * radius) for of in (grid, wider))
    assert before > 200
    assert after < 30


def rms_error(beam, grid, rows, radius_cm):
    """HU, within the measured circle."""
    flat = ImageGrid(grid.n_y, grid.n_x, grid.spacing_cm[1])
    error = fbp(beam, flat, backend="numba") @ rows - image(flat, disc(radius_cm))
    seen = image(flat, disc(0.95 * beam.measured_radius_cm), 1) > 0
    return 1000 * error[seen].square().mean().sqrt().item()


@pytest.mark.parametrize("beam", BEAMS.values(), ids=BEAMS)
def test_a_disc_within_the_measured_circle_is_not_named(beam):
    scan = scan_of(beam, 0.95 * beam.measured_radius_cm)
    percent = cut_off_percent(scan, beam)
    assert percent == 0
    assert cut_off_warning(percent, beam, beam.default_grid()) == ""


def test_noise_of_few_photons_is_no_object():
    scan = scan_of(FAN, 0.5)
    noise = torch.randn(120, 1, 70, generator=torch.Generator().manual_seed(0))
    scan.line_integrals[:] += 0.7 * noise  # g/cm², of 170 counts
    assert (scan.line_integrals[..., 0] > 1).double().mean() > 0.05
    assert cut_off_percent(scan, FAN) == 0


def test_both_ends_count_in_a_short_scan():
    beam = replace(FAN, arc_rad=4.2)
    scan = scan_of(beam, 0.5)
    scan.line_integrals[..., 0] = torch.linspace(0.5, 2.5, 120)[:, None]
    assert cut_off_percent(scan, beam) == pytest.approx(75, abs=4)
