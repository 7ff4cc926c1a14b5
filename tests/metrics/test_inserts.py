"""Errors of inserts: known bias, noise and contrast."""

import pytest
import torch

from pcctlearn.metrics.inserts import cnr_over_energy, disc, insert_errors, voxel_sd
from pcctlearn.phantoms.ellipses import voxel_centers

POINTS = voxel_centers(64, 64, 0.1, dtype=torch.float64)
INSERT = disc(POINTS, (1.5, -0.5), 0.8)
BACKGROUND = disc(POINTS, (-1.5, 0.0), 0.8)


def draws(n=400, sd=0.3):
    noise = torch.randn(n, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    return 1.0 + 2.0 * INSERT + sd * noise


def test_a_disc_holds_the_voxels_around_its_center():
    assert INSERT.sum().item() == pytest.approx(torch.pi * 0.8**2 / 0.1**2, rel=0.05)
    center = POINTS[INSERT].mean(0)
    assert center.tolist() == pytest.approx([1.5, -0.5], abs=0.01)
    with pytest.raises(ValueError, match=r"0\.01 cm.*finer grid"):
        disc(POINTS, (0.0, 0.0), 0.01)


def test_bias_noise_and_contrast_are_those_put_in():
    found = insert_errors(draws(), INSERT, BACKGROUND, true=2.5)
    n_voxels = INSERT.sum().item()
    assert found.bias == pytest.approx(0.5, abs=0.005)
    assert found.sd == pytest.approx(0.3, rel=0.02)
    assert found.mean_sd == pytest.approx(0.3 / n_voxels**0.5, rel=0.15)
    assert found.cnr == pytest.approx(2 / 0.3, rel=0.02)


def test_a_pattern_that_all_draws_share_is_no_noise():
    pattern = 0.5 * torch.sin(20 * POINTS[..., 0])
    assert voxel_sd(draws() + pattern, INSERT) == pytest.approx(voxel_sd(draws(), INSERT))


def test_cnr_does_not_depend_on_the_scale_of_an_energy():
    images = draws()[:, None] * torch.tensor([1.0, 7.0])[:, None, None]
    cnr = cnr_over_energy(images, INSERT, BACKGROUND)
    assert cnr[0].item() == pytest.approx(cnr[1].item())
    assert cnr[0].item() == pytest.approx(insert_errors(draws(), INSERT, BACKGROUND, 0.0).cnr)


def test_one_draw_has_no_noise():
    with pytest.raises(ValueError, match=r"two draws.*n_draws"):
        insert_errors(draws(1), INSERT, BACKGROUND, 0.0)
