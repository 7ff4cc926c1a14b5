"""The covariance of maps from that of the rays, against maps of repeated noisy scans."""

import pytest
import torch
from support.plates import water_iodine_scanner

from pcctlearn.chain import Chain
from pcctlearn.decomposition.image_domain import ImageDomain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.evaluation.noise import map_covariance, noise_numbers
from pcctlearn.phantoms.ellipses import Ellipse, EllipsePhantom
from pcctlearn.scan import Scan
from pcctlearn.shapes import channels_first
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

BEAM, GRID = FanBeam(60, 80, 0.4, 75.0, 108.5), ImageGrid(40, 40, 0.5)
MATERIALS = ("water", "iodine")


def scanned():
    """Gains of the counts, their expectation, and a chain for a cylinder of water."""
    model = water_iodine_scanner()
    phantom = EllipsePhantom([Ellipse((0.0, 0.0), (8.0, 8.0), (1.0, 0.001))], MATERIALS)
    rays = phantom.line_integrals(*BEAM.rays()).movedim(0, -1)
    expected = channels_first(model(rays)[None]).detach()
    gain = torch.tensor([1.3, 0.8])[:, None, None]
    chain = Chain(ImageDomain(model), fbp(BEAM, GRID, "hamming", truncation="cosine").double())
    return expected, gain, chain


def test_maps_have_the_noise_of_repeated_scans():
    expected, gain, chain = scanned()
    generator = torch.Generator().manual_seed(0)
    maps = torch.stack(
        [
            chain(torch.poisson(expected / gain, generator) * gain, until="maps").at("maps")[0]
            for _ in range(200)
        ]
    )
    middle = (..., slice(14, 26), slice(14, 26))
    deviations = (maps - maps.mean(0))[middle]
    repeated = torch.einsum("niyx,njyx->ij", deviations, deviations) / 199 / 144
    found = map_covariance(
        chain, chain(expected, until="maps"), gain, torch.Generator().manual_seed(1), n_draws=40
    )
    # of 200 and 40 draws of 144 correlated voxels: some 3 %
    torch.testing.assert_close(found[middle].mean((-2, -1)), repeated, rtol=0.12, atol=0)
    numbers = noise_numbers(found, chain(expected, until="maps").at("maps")[0], MATERIALS)
    assert numbers["noise_correlation_water_iodine"] == pytest.approx(
        (repeated[0, 1] / (repeated[0, 0] * repeated[1, 1]).sqrt()).item(), abs=0.05
    )
    assert numbers["noise_water_mg_mL"] == pytest.approx(
        1000 * repeated[0, 0].sqrt().item(),
        rel=0.2,  # over the whole body
    )


def test_a_decomposition_that_does_not_know_its_noise_has_no_maps_of_it():
    expected, gain, chain = scanned()
    other = Chain(MaximumLikelihood(chain.decompose.model), chain.reconstruct)
    generator = torch.Generator()
    assert map_covariance(other, Scan(counts=expected), gain, generator) is None
