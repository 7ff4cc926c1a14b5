"""Means over regions: the smooth part of an error counts, noise averages out."""

import pytest
import torch

from pcctlearn.losses.regions import RegionMeans


def test_a_smooth_error_counts_in_full():
    distance = RegionMeans(torch.nn.L1Loss(), size=4)
    target = torch.rand(1, 2, 8, 8, 8)
    assert float(distance(target + 0.25, target)) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_white_noise_falls_with_the_root_of_the_region(n_axes):
    torch.manual_seed(0)
    noise = torch.randn(3, 2, *[16] * n_axes)
    whole = RegionMeans(torch.nn.MSELoss(), size=1, n_axes=n_axes)(noise, 0 * noise)
    part = RegionMeans(torch.nn.MSELoss(), size=4, n_axes=n_axes)(noise, 0 * noise)
    assert float(part) == pytest.approx(float(whole) / 4**n_axes, rel=0.5)


def test_size_one_is_the_distance_itself():
    a, b = torch.rand(2, 1, 2, 4, 4, 4)
    assert torch.equal(RegionMeans(torch.nn.L1Loss(), size=1)(a, b), torch.nn.L1Loss()(a, b))


def test_a_region_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match=r"regions of 8.*5.*size=5"):
        RegionMeans(torch.nn.L1Loss(), size=8)(torch.rand(1, 1, 5, 9, 9), torch.rand(1, 1, 5, 9, 9))
    with pytest.raises(ValueError, match="size must be 1 or more"):
        RegionMeans(torch.nn.L1Loss(), size=0)
