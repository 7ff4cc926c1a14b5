"""Scans of a water ellipse with calcium, by pixels that differ, pile up and see scatter."""

from dataclasses import replace

import torch
from support.plates import cdte_scanner

from pcctlearn.phantoms.ellipses import water_calcium_phantom
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.pileup import PileUp
from pcctlearn.scans.record import ResponseRecord, ScanRecord, SpectrumRecord
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import VolumeGrid

EDGES_keV = (25.0, 40.0, 55.0, 70.0)
PARALYSABLE_s, NONPARALYSABLE_s, AMPLITUDE = (12e-9, 11e-9, 10e-9, 9e-9), 8e-9, 0.4
COMMON_keV = torch.tensor([0.15, -0.1, 0.2, -0.15], dtype=torch.float64)
ERRORS = DetectorErrors(0.0035, 0.0012, (-0.006, 0.006), 0.1, 0.005, 0.05)
SCATTER_G_CM2 = 4.0  # of water, behind which air has the spectrum of the scatter
VIEW_s, AIR_VIEWS = 1.8, 24


def scanner():
    """With the nominal thresholds, and no upper limit of the counts."""
    return cdte_scanner((*EDGES_keV, 149.0))


def detector(n_pixels):
    """Pixels with biased thresholds, the lowest among them, and biases that all of them share."""
    pixels = ERRORS.pixels(torch.tensor(EDGES_keV, dtype=torch.float64), n_pixels, 0)
    return replace(pixels, thresholds_keV=pixels.thresholds_keV + COMMON_keV)


@torch.no_grad()
def piled_up_scan(
    n_columns=24, n_views=24, noisy=False, seed=1, total=5e8, phantom=None
) -> ScanRecord:
    """A fan-beam scan with ``total`` photons in all views, noisy or not."""
    phantom = water_calcium_phantom((20.0, 8.0)) if phantom is None else phantom
    nominal, beam = scanner(), FanBeam(n_views, n_columns, 35.84 / n_columns, 75.0, 108.5)
    A = phantom.line_integrals(*beam.rays())
    model = detector(n_columns).spectral_model(nominal)
    # the rate, and with it the loss, does not depend on the number of views
    view_s = VIEW_s * 48 / n_views
    scale = total / n_views / float(nominal.fluence.sum())
    air, primary = scale * model.air(), scale * model(A.movedim(0, -1))
    across = torch.linspace(-1, 1, n_columns, dtype=torch.float64)[:, None]
    level = 0.012 * (0.7 + 0.3 * torch.exp(-2 * across**2)) * torch.ones(n_views, 1, 1)
    softened = torch.exp(-SCATTER_G_CM2 * nominal.attenuation[0])
    scatter, known = (level * (one.spectra() @ softened) for one in (model, nominal))
    pile_up = PileUp(PARALYSABLE_s, [NONPARALYSABLE_s] * len(EDGES_keV), view_s)
    counts, air = pile_up(primary + AMPLITUDE * scale * scatter), pile_up(air)
    if noisy:
        generator = torch.Generator().manual_seed(seed)
        counts = draw_counts(counts, generator)
        air = draw_counts(AIR_VIEWS * air, generator) / AIR_VIEWS
    response = nominal.response
    return ScanRecord(
        name="phantom",
        geometry=beam,
        grid=VolumeGrid(1, 64, 64, 0.5),
        thresholds_keV=nominal.thresholds.edges_keV,
        air=air.T[:, None],
        counts=counts.movedim(-1, 0)[:, :, None],
        line_integrals=A[:, :, None],
        materials=("water", "calcium"),
        scatter=known.movedim(-1, 0)[:, :, None],
        spectrum=SpectrumRecord(nominal.energies_keV, nominal.fluence),
        response=ResponseRecord(
            response.energies_keV, response.deposited_keV, response.response_per_keV
        ),
        view_s=view_s,
    )
