"""SSIM, differences of regions, and rings."""

import pytest
import torch

from pcctlearn.metrics.images import region_difference, ring_rms, structural_similarity
from pcctlearn.phantoms.ellipses import voxel_centers

POINTS = voxel_centers(64, 64, 0.1, dtype=torch.float64)
BODY = POINTS.square().sum(-1) < 2.5**2


def test_equal_images_have_an_ssim_of_one():
    image = torch.rand(64, 64)
    assert structural_similarity(image, image, BODY) == pytest.approx(1.0, abs=1e-5)


def test_noise_lowers_the_ssim_more_than_a_shift_of_the_level():
    image = BODY * 1.0 + 0.1 * torch.rand(64, 64)
    noisy = image + 0.1 * torch.randn(64, 64)
    shifted = image + 0.1
    similar = [structural_similarity(other, image, BODY) for other in (shifted, noisy)]
    assert 1 > similar[0] > similar[1] > 0


def test_the_ssim_of_two_constants():
    """(2ab + C₁)/(a² + b² + C₁), with C₁ of the range of the reference in the body."""
    a, b, data_range = 0.01, 0.03, 1.0
    reference, image = torch.full((64, 64), a), torch.full((64, 64), b)
    body = torch.zeros(64, 64, dtype=torch.bool)
    body[10:20, 10:20] = True
    body[0, 0], reference[0, 0] = True, a + data_range  # in no window within the body

    def ssim(c1):
        return (2 * a * b + c1) / (a**2 + b**2 + c1)

    found = structural_similarity(image, reference, body)
    assert found == pytest.approx(ssim((0.01 * data_range) ** 2), rel=1e-4)
    assert found != pytest.approx(ssim((0.01 * 5 * data_range) ** 2), rel=0.1)


def test_difference_of_regions():
    centers = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, -1.5]])
    image = 10 * POINTS[..., 0] + 3 * POINTS[..., 1]
    assert region_difference(image, POINTS, centers, 0.3) == pytest.approx(15 + 4.5, abs=0.2)
    assert region_difference(torch.ones(64, 64), POINTS, centers, 0.3) == 0


def test_rings_are_what_is_the_same_about_the_axis_and_not_smooth():
    points = voxel_centers(101, 101, 0.1, dtype=torch.float64)
    radius = points.norm(dim=-1)
    body = radius < 4.5
    ring = ((radius / 0.1).long() % 2).double() * 2 - 1  # ±1 from annulus to annulus
    assert ring_rms(ring, points, body, 0.1) == pytest.approx(1, abs=0.1)
    cupping = ring_rms(radius, points, body, 0.1)
    assert cupping < 0.25 * radius[body].std()
    noise = torch.randn(101, 101, generator=torch.Generator().manual_seed(0)).double()
    assert ring_rms(noise, points, body, 0.1) < 0.2
