"""The matrix of the image domain: exact for one energy, and its noise that of repeated draws."""

import re

import pytest
import torch
from support.plates import cdte_scanner, flawed, water_iodine_scanner

from pcctlearn.decomposition.beam_hardening import mean_energies_keV
from pcctlearn.decomposition.image_domain import ImageDomain, ImageInverse
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.shapes import channels_first
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

MATERIALS = ["water", "iodine"]


@pytest.mark.parametrize("keV", [(62.0, 75.0), (48.0, 60.0, 71.0)])
def test_monochromatic_images_give_the_densities_and_every_other_energy(keV):
    energies = torch.tensor(keV)
    maps = torch.tensor([1.0, 0.01])[:, None, None] * torch.rand(2, 5, 7)
    images = torch.einsum("mk,myx->kyx", attenuation_table(MATERIALS, energies), maps)
    found = ImageInverse.at(MATERIALS, energies)(list(images))
    torch.testing.assert_close(found, maps, rtol=1e-9, atol=1e-12)
    at_51 = MonoenergeticImages(MATERIALS, [51.0])(found[None])[0, 0]
    wanted = attenuation_table(MATERIALS, [51.0])[:, 0, None, None] * maps
    torch.testing.assert_close(at_51, wanted.sum(0), rtol=1e-9, atol=1e-12)


def test_the_matrix_of_the_specification():
    """Condition of water and iodine at 62 and 75 keV: 141 with these tables."""
    assert ImageInverse.at(MATERIALS, torch.tensor([62.0, 75.2])).condition == pytest.approx(
        141, rel=0.05
    )


def test_more_images_than_materials_are_weighted_by_their_noise():
    energies = torch.tensor([48.0, 60.0, 71.0])
    C = torch.tensor([[3.0, 1.0, 1.0], [1.0, 2.0, 1.5], [1.0, 1.5, 4.0]])
    weighted, plain = (ImageInverse.at(MATERIALS, energies, c) for c in (C, None))
    # Gauss–Markov: no other unbiased combination has less noise
    noise = [inverse.covariance(C).diagonal() for inverse in (weighted, plain)]
    assert (noise[0] < noise[1]).all()


def test_images_of_different_grids_are_refused():
    inverse = ImageInverse.at(MATERIALS, torch.tensor([62.0, 75.0]))
    with pytest.raises(ValueError, match=r"different grids, \(4, 4\) and \(4, 5\)"):
        inverse([torch.zeros(4, 4), torch.zeros(4, 5)])
    grids = [ImageGrid(4, 4, 0.1), ImageGrid(4, 4, 0.2)]
    with pytest.raises(ValueError, match=r"different grids.*0\.1 × 0\.1.*0\.2 × 0\.2"):
        inverse([torch.zeros(4, 4)] * 2, grids)
    with pytest.raises(ValueError, match="1 images for 2"):
        inverse([torch.zeros(4, 4)])
    with pytest.raises(ValueError, match=r"1 thresholds.*materials=\[…\]"):
        ImageInverse.at(MATERIALS, torch.tensor([62.0]))


def counts_of(model, rays):
    return channels_first(model(rays)[None]).detach()


def test_water_of_any_length_is_found_in_every_pixel():
    model = flawed(n_pixels=8).spectral_model(water_iodine_scanner())
    rays = torch.tensor([[0.0, 0.0], [4.7, 0.0], [21.3, 0.0]])[:, None].expand(-1, 8, -1)
    found = ImageDomain(model)(counts_of(model, rays))
    assert found.converged.all()
    torch.testing.assert_close(found.x[0].movedim(0, -1), rays, rtol=1e-4, atol=2e-4)


def test_longer_water_than_the_fit_is_named(caplog):
    model = flawed(n_pixels=1).spectral_model(water_iodine_scanner())
    lengths = torch.tensor([[[1.0, 0.0]], [[26.0, 0.0]]])
    ImageDomain(model)(counts_of(model, lengths))
    assert not caplog.text
    ImageDomain(model)(counts_of(model, torch.tensor([[[1.0, 0.0]], [[40.0, 0.0]]])))
    assert "50 % of the rays" in caplog.text
    remedy = float(re.search(r"decomposition\.longest_cm=(\d+)", caplog.text)[1])
    caplog.clear()
    longer = ImageDomain(model, longest_cm=remedy)
    found = longer(counts_of(model, torch.tensor([[[40.0, 0.0]]]))).x.flatten()
    torch.testing.assert_close(found, torch.tensor([40.0, 0.0]), rtol=1e-3, atol=5e-3)
    assert not caplog.text


def test_iodine_in_water_needs_the_matrix_behind_water():
    model = cdte_scanner((31.0, 54.0, 149.0), ("water", "iodine"))
    water = torch.tensor([[[16.0, 0.0]]])
    found = []
    for water_cm in (None, 16.0):
        decompose = ImageDomain(model, water_cm=water_cm)
        without, added = (
            decompose(counts_of(model, rays)).x.flatten()
            for rays in (water, water + torch.tensor([0.0, 0.002]))
        )
        torch.testing.assert_close(without, water.flatten(), rtol=1e-4, atol=1e-4)
        found.append(float(added[1] - without[1]) / 0.002)
    assert found[0] < 0.9
    assert found[1] == pytest.approx(1, abs=0.01)


def test_effective_energies_are_those_that_are_asked_for():
    model = water_iodine_scanner()
    assert ImageDomain(model).hardening.effective_keV.tolist() == mean_energies_keV(model)
    other = ImageDomain(model, effective_keV=[60.0, 80.0])
    wanted = attenuation_table(MATERIALS, [60.0, 80.0]).mT
    torch.testing.assert_close(other.inverse.attenuation, wanted)


def test_a_ray_without_counts_is_not_converged():
    model = water_iodine_scanner()
    counts = counts_of(model, torch.zeros(3, 1, 2)).clone()
    counts[0, 1, 1] = 0.0
    found = ImageDomain(model)(counts)
    assert found.converged[0, :, 0].tolist() == [True, False, True]
    assert found.x.isfinite().all()


def test_gradients_reach_the_counts():
    model = cdte_scanner()
    decompose = ImageDomain(model)
    counts = counts_of(model, torch.tensor([[[5.0, 0.2]], [[18.0, 0.0]]])).requires_grad_()
    assert torch.autograd.gradcheck(lambda n: decompose(n).x, counts, eps=1.0, rtol=1e-4)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="least_over_water"):
        ImageDomain(cdte_scanner(), least_over_water=1.0)
    with pytest.raises(ValueError, match=r"1 energies for 2.*decomposition\.effective_keV=\[65"):
        ImageDomain(cdte_scanner(), effective_keV=[60.0])
    with pytest.raises(
        ValueError, match=r"within the spectrum of .*decomposition\.effective_keV=\[65"
    ):
        ImageDomain(cdte_scanner(), effective_keV=[0.06, 0.08])
    with pytest.raises(ValueError, match=r"must increase.*decomposition\.effective_keV=null"):
        ImageDomain(cdte_scanner(), effective_keV=[60.0, 60.0])
    with pytest.raises(ValueError, match="water_cm"):
        ImageDomain(cdte_scanner(), water_cm=-1.0)
    with pytest.raises(ValueError, match="longest_cm"):
        ImageDomain(cdte_scanner(), longest_cm=0.0)


@pytest.mark.physics
def test_the_covariance_is_that_of_repeated_draws():
    """600 draws of 40 rays; gains of the counts are allowed for."""
    model = water_iodine_scanner()
    decompose = ImageDomain(model)
    rays = torch.tensor([18.0, 0.02]).expand(40, 1, 2)
    gain = torch.tensor([1.3, 0.8])[None, :, None, None]
    expected = counts_of(model, rays)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([torch.poisson(expected / gain, generator) * gain for _ in range(600)])
    x = torch.stack([decompose(one).x[0] for one in drawn])
    x = x.movedim(1, -1).flatten(0, -2)
    found = torch.cov(x.mT)
    of_counts = torch.diag_embed((expected * gain).movedim(1, -1))
    predicted = decompose.covariance(expected, of_counts)[0, 0, 0]
    # relative standard error of a variance from 24 000 draws: 0.9 %
    torch.testing.assert_close(found, predicted, rtol=0.04, atol=0)


@pytest.mark.physics
def test_the_covariance_of_images_is_carried_by_the_matrix():
    """M⁻¹ C M⁻ᵀ of the images above each threshold, against maps of 240 noisy scans."""
    model = water_iodine_scanner()
    beam, grid = FanBeam(40, 48, 0.6, 75.0, 108.5), ImageGrid(20, 20, 0.5)
    reconstruct = fbp(beam, grid, "hamming", truncation="cosine").double()
    decompose = ImageDomain(model)
    expected = counts_of(model, torch.tensor([15.0, 0.0]).expand(40, 48, 2))
    generator = torch.Generator().manual_seed(1)
    maps, images = [], []
    M = decompose.inverse.attenuation
    for _ in range(240):
        x = decompose(torch.poisson(expected, generator)).x[0]
        maps.append(reconstruct @ x.contiguous())
        p = torch.einsum("km,mvc->kvc", M, x)
        images.append(reconstruct @ p.contiguous())
    maps, images = (torch.stack(each)[:, :, 8:12, 8:12].flatten(2) for each in (maps, images))

    def covariance(values):
        return torch.stack([torch.cov(values[..., v].mT) for v in range(16)])

    torch.testing.assert_close(
        decompose.inverse.covariance(covariance(images)), covariance(maps), rtol=1e-6, atol=0
    )
    # the same densities from the images of the two thresholds
    direct = decompose.inverse(list(images[0]))
    torch.testing.assert_close(direct, maps[0], rtol=1e-6, atol=1e-9)
    # the noise of the rays, reconstructed, is that of the maps
    of_rays = decompose.covariance(expected)[0]
    root = torch.linalg.cholesky(of_rays)
    drawn = []
    for _ in range(240):
        normal = torch.randn(root.shape[:-1], generator=generator)
        noise = (root @ normal[..., None])[..., 0].movedim(-1, 0)
        drawn.append(reconstruct @ noise.contiguous())
    predicted = covariance(torch.stack(drawn)[:, :, 8:12, 8:12].flatten(2)).mean(0)
    # 16 voxels of 240 draws each, correlated among neighbours: some 3 %
    torch.testing.assert_close(predicted, covariance(maps).mean(0), rtol=0.12, atol=0)
