"""SSIM and differences of regions."""

import pytest
import torch

from pcctlearn.metrics.images import region_difference, structural_similarity
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
    reference = torch.full((64, 64), 0.5)
    reference[32, 32] = 1.0  # the range is 0.5
    body = torch.zeros(64, 64, dtype=torch.bool)
    body[10:20, 10:20] = True
    body[32, 32] = True
    image = torch.full((64, 64), 0.6)
    c = (0.01 * 0.5) ** 2
    wanted = (2 * 0.5 * 0.6 + c) / (0.5**2 + 0.6**2 + c)
    body[32, 32] = False
    body_with_range = body.clone()
    body_with_range[32, 32] = True
    found = structural_similarity(image, reference, body_with_range)
    assert found == pytest.approx(wanted, rel=0.02)


def test_difference_of_regions():
    centers = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, -1.5]])
    image = 10 * POINTS[..., 0] + 3 * POINTS[..., 1]
    assert region_difference(image, POINTS, centers, 0.3) == pytest.approx(15 + 4.5, abs=0.2)
    assert region_difference(torch.ones(64, 64), POINTS, centers, 0.3) == 0
