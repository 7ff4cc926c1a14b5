"""Noise of the maps and images of a scan, against repeated noisy scans."""

from functools import partial

import pytest
import torch
from support.plates import water_iodine_scanner

from pcctlearn.decomposition.image_domain import ImageDomain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.evaluation.count_noise import scaled_covariance
from pcctlearn.evaluation.noise import RayNoise, noise_numbers
from pcctlearn.phantoms.ellipses import Ellipse, EllipsePhantom
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import Scan
from pcctlearn.shapes import channels_first
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.projector import backprojector
from pcctlearn.tomography.variance import fbp_variance

BEAM, GRID = FanBeam(60, 80, 0.4, 75.0, 108.5), VolumeGrid(1, 40, 40, 0.5)
MATERIALS = ("water", "iodine")
IMAGE = MonoenergeticImages(MATERIALS, [60.0, 90.0])
ALIVE = torch.zeros(1, 80, dtype=torch.bool)
GAIN = torch.tensor([1.3, 0.8])[:, None, None, None]
BOX = {"water": [-5.0, 60.0], "iodine": [-2.0, 2.0]}
DECOMPOSITIONS = {
    "image domain": ImageDomain,
    "maximum likelihood": partial(MaximumLikelihood, bounds_g_cm2=BOX),
}


def expected_counts(model):
    """Counts (1, bin, view, row, column) of a cylinder of water with a rod of iodine."""
    rod = Ellipse((3.0, 2.0), (2.0, 2.0), (0.0, 0.009))
    water = Ellipse((0.0, 0.0), (8.0, 8.0), (1.0, 0.001))
    rays = EllipsePhantom([water, rod], MATERIALS).line_integrals(*BEAM.rays()).movedim(0, -1)
    return channels_first(model(rays)[None]).detach()[:, :, :, None]


def scan_of(decompose, counts):
    x, converged = decompose(counts)
    return Scan(counts=counts, line_integrals=x.detach(), converged=converged)


def of_maps(decompose, scan, dead=ALIVE):
    noise = RayNoise.of(decompose, scan, scaled_covariance(GAIN, scan.counts / GAIN), dead)
    return noise.of_maps(fbp_variance(BEAM, GRID, "hamming"), BEAM, GRID)


@pytest.mark.physics
@pytest.mark.parametrize("name", DECOMPOSITIONS)
@torch.no_grad()
def test_maps_and_images_have_the_noise_of_repeated_scans(name):
    """Counts are photons times a gain that differs between the bins."""
    decompose, reconstruct = (
        DECOMPOSITIONS[name](water_iodine_scanner()),
        fbp(BEAM, GRID, "hamming"),
    )
    expected = expected_counts(decompose.model)
    generator = torch.Generator().manual_seed(0)
    maps = torch.stack(
        [
            reconstruct @ decompose(torch.poisson(expected / GAIN, generator) * GAIN).x[0]
            for _ in range(300)
        ]
    )
    deviations = maps - maps.mean(0)
    repeated = torch.einsum("nizyx,njzyx->ijzyx", deviations, deviations) / 299
    found = of_maps(decompose, scan_of(decompose, expected))
    y, x = torch.meshgrid(*2 * [torch.arange(40) - 19.5], indexing="ij")
    for low, high in ((0, 8), (8, 15), (15, 20)):  # in the middle, at the edge and outside
        ring = (torch.hypot(x, y) >= low) & (torch.hypot(x, y) < high)
        found_here, repeated_here = (c[..., 0, :, :][..., ring].mean(-1) for c in (found, repeated))
        # of 300 draws and some 200 correlated voxels: 1 %
        torch.testing.assert_close(found_here, repeated_here, rtol=0.05, atol=0)
    sd = IMAGE.hounsfield(maps).std(0)
    ratio = IMAGE.sd_hounsfield(found) / sd
    torch.testing.assert_close(ratio.mean((1, 2, 3)), torch.ones(2), rtol=0.03, atol=0)
    # one scan tells it as well as the mean of all
    single = of_maps(decompose, scan_of(decompose, torch.poisson(expected / GAIN) * GAIN))
    torch.testing.assert_close(single.mean((2, 3, 4)), found.mean((2, 3, 4)), rtol=0.02, atol=0)
    numbers = noise_numbers(found, maps[0], MATERIALS, IMAGE)
    assert -1 < numbers["noise_correlation_water_iodine"] < -0.5
    assert numbers["noise_unknown_percent"] == 0
    assert numbers["noise_vmi60_HU"] < numbers["noise_vmi90_HU"]


@pytest.mark.physics
@pytest.mark.parametrize("photons", [1.0, 0.03])
@torch.no_grad()
def test_two_thirds_of_the_estimates_lie_within_their_own_standard_deviation(photons):
    """68 ± 2 % of the body voxels of 200 scans, each with the noise maps of its own counts."""
    model = water_iodine_scanner()
    model.fluence.mul_(photons)
    decompose, reconstruct = MaximumLikelihood(model, bounds_g_cm2=BOX), fbp(BEAM, GRID, "hamming")
    expected, generator = expected_counts(model), torch.Generator().manual_seed(0)
    clean = reconstruct @ decompose(expected).x[0]
    body, inside = clean.sum(0) > 0.5, []
    for _ in range(200):
        scan = scan_of(decompose, torch.poisson(expected / GAIN, generator) * GAIN)
        maps, covariance = reconstruct @ scan.line_integrals[0], of_maps(decompose, scan)
        sd = covariance.diagonal(dim1=0, dim2=1).movedim(-1, 0).sqrt()
        images = (IMAGE.hounsfield(maps[None]) - IMAGE.hounsfield(clean[None]))[0]
        error = torch.cat([maps - clean, images])
        sd = torch.cat([sd, IMAGE.sd_hounsfield(covariance)])
        inside.append((error.abs() <= sd)[:, body].double().mean(1))
    shares = torch.stack(inside).mean(0)
    torch.testing.assert_close(shares, torch.full((4,), 0.683), rtol=0, atol=0.02)


@torch.no_grad()
def test_voxels_on_rays_whose_noise_is_not_known_are_unknown():
    """Rays on a limit, rays that are not solved; not those whose pixel is filled."""
    model = water_iodine_scanner()
    decompose = MaximumLikelihood(model, bounds_g_cm2=BOX)
    scan = scan_of(decompose, expected_counts(model))
    assert of_maps(decompose, scan).isfinite().all()
    scan.line_integrals[0, 1, 10, 0, 40] = BOX["iodine"][1]
    scan.converged[0, 25, 0, 12] = False
    rays = torch.zeros(BEAM.sinogram_shape(GRID))
    rays[10, 0, 40] = rays[25, 0, 12] = 1
    crossed = backprojector(BEAM, GRID) @ rays > 0
    unknown = of_maps(decompose, scan)[0, 0].isnan()
    assert (unknown == crossed).all()
    assert 0 < unknown.double().mean() < 0.2
    dead = ALIVE.clone()
    dead[0, [12, 40]] = True
    assert of_maps(decompose, scan, dead).isfinite().all()


@pytest.mark.filterwarnings("ignore:truncated")
@torch.no_grad()
def test_where_rows_are_extrapolated_only_the_measured_circle_is_known():
    model = water_iodine_scanner()
    decompose = MaximumLikelihood(model)
    wide = VolumeGrid(1, 60, 60, 0.5)
    assert any(BEAM.is_truncated(wide))
    scan = scan_of(decompose, expected_counts(model))
    noise = RayNoise.of(decompose, scan, scaled_covariance(GAIN, scan.counts), ALIVE)
    found = noise.of_maps(fbp_variance(BEAM, wide), BEAM, wide)
    measured = torch.from_numpy(BEAM.fully_measured(wide))
    assert (found[0, 0].isfinite() == measured).all()


def test_a_scan_of_air_has_no_numbers():
    nothing = torch.zeros(2, 1, 4, 4)
    assert noise_numbers(torch.ones(2, 2, 1, 4, 4), nothing, MATERIALS, IMAGE) == {}
