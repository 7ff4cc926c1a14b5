"""Virtual monoenergetic images are linear in the densities and read water as zero."""

import torch

from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.vmi import MonoenergeticImages

ENERGIES = [40.0, 60.0, 140.0]


def test_water_has_0_HU_and_vacuum_minus_1000_HU():
    images = MonoenergeticImages(["water", "calcium"], ENERGIES)
    water = torch.stack([torch.ones(2, 3, 4), torch.zeros(2, 3, 4)], 1)
    assert images.hounsfield(water).abs().max() < 1e-9
    torch.testing.assert_close(images.hounsfield(0 * water), torch.full((2, 3, 3, 4), -1000.0))


def test_a_k_edge_material_adds_linearly():
    images = MonoenergeticImages(["water", "iodine"], ENERGIES)
    maps = torch.rand(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    water, iodine = attenuation_table(["water", "iodine"], ENERGIES)[..., None, None, None]
    expected = water * maps[:, :1] + iodine * maps[:, 1:]
    torch.testing.assert_close(images(maps), expected)
    # 1000 (μ − μ_w)/μ_w of the sum
    torch.testing.assert_close(images.hounsfield(maps), 1000 * (expected - water) / water)


def test_single_precision_is_kept():
    maps = torch.ones(1, 1, 2, 2, dtype=torch.float32)
    images = MonoenergeticImages(["water"], ENERGIES)
    assert images(maps).dtype == images.hounsfield(maps).dtype == torch.float32


def test_the_standard_deviation_is_that_of_repeated_images():
    """Of a thousand correlated pairs of maps; the covariance is theirs, so it is exact."""
    images = MonoenergeticImages(["water", "iodine"], ENERGIES)
    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(1000, 2, 3, generator=generator) @ torch.diag(torch.tensor([1.0, 2, 3]))
    maps[:, 1] -= 0.9 * maps[:, 0]
    covariance = torch.stack([maps[..., voxel].mT.cov() for voxel in range(3)], -1)
    repeated = images.hounsfield(maps).std(0)
    torch.testing.assert_close(images.sd_hounsfield(covariance), repeated)
