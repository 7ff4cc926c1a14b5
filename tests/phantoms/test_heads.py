"""Procedural heads are reproducible, plausible and different for every seed."""

import pytest
import torch
from torch.nn.functional import avg_pool3d

from pcctlearn.phantoms.heads import FIELD_CM, head
from pcctlearn.tomography.grids import VolumeGrid

TALL = VolumeGrid(44, 32, 26, 0.8, center_cm=(2.0, 0.0, 0.0))  # contains the vertex of every head


def test_head_depends_only_on_its_seed():
    grid = VolumeGrid(20, 32, 26, (1.0, 0.8, 0.8))
    patient = head(1, grid, oversampling=1)
    assert patient.dtype == torch.float32
    torch.testing.assert_close(head(1, grid, oversampling=1), patient, rtol=0, atol=0)
    torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(head(1, grid, oversampling=1), patient, rtol=0, atol=0)
    assert (head(2, grid, oversampling=1) - patient).abs().mean() > 0.02


def test_head_is_the_same_on_a_finer_grid():
    coarse = head(3, VolumeGrid(24, 36, 30, 0.7))
    fine = head(3, VolumeGrid(48, 72, 60, 0.35), oversampling=1)
    averaged = avg_pool3d(fine, 2)
    torch.testing.assert_close(averaged, coarse, rtol=0, atol=1e-5)  # the same points
    finer = avg_pool3d(head(3, VolumeGrid(48, 72, 60, 0.35)), 2)
    assert (finer - coarse).abs().mean() < 0.03 * coarse[0].mean()
    torch.testing.assert_close(finer.mean((1, 2, 3)), coarse.mean((1, 2, 3)), rtol=0.02, atol=1e-4)


def test_longer_and_shorter_scans_share_their_slices():
    longer = head(4, VolumeGrid(30, 32, 26, 0.8), oversampling=1)
    shorter = head(4, VolumeGrid(10, 32, 26, 0.8), oversampling=1)
    torch.testing.assert_close(longer[:, 10:20], shorter, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def heads():
    return [head(seed, TALL) for seed in range(8)]


def test_densities_are_plausible_and_within_the_field(heads):
    y = TALL.index_to_cm[1, 2] - 0.8 * torch.arange(TALL.n_y)
    x = TALL.index_to_cm[0, 2] + 0.8 * torch.arange(TALL.n_x)
    outside = (y.abs()[:, None] > FIELD_CM[0] / 2) | (x.abs() > FIELD_CM[1] / 2)
    for water, calcium in heads:
        assert water.min() >= 0
        assert water.max() < 1.5
        assert calcium.min() >= 0
        assert 0.1 < calcium.max() < 0.7
        assert (water[:, outside] < 1e-6).all()
        assert (water[-1] < 1e-6).all()  # above the vertex
        assert (water[0] > 0.5).any()  # the neck reaches the lowest slice


def test_skull_encloses_the_brain():
    water, calcium = head(0, VolumeGrid(60, 100, 80, 0.25), oversampling=1)
    bone = calcium > 0.05
    level = int(torch.where(bone.flatten(1).any(1))[0][-1]) - 16  # 4 cm below the vertex
    row = bone[level, 50]  # through the middle of the brain
    left, right = torch.where(row)[0][[0, -1]].tolist()
    assert right - left > 12 / 0.25 * 0.7
    assert (water[level, 50, left : right + 1] > 0.9).all()  # no air between bone and brain


def test_heads_vary_in_size_bone_and_air(heads):
    voxel_cm3 = 0.8**3
    measures = []
    for water, calcium in heads:
        # a horizontal section at the widest part of the vault, 6 cm below the vertex
        top = int(torch.where((water > 0.3).flatten(1).any(1))[0][-1])
        section = water[top - 7] > 0.3
        length, width = (float(section.any(axis).sum()) * 0.8 for axis in (1, 0))
        head_part = slice(max(0, top - 18), top + 1)
        mass = (water + calcium)[head_part].sum()
        filled = _inside(water[head_part])
        air_cm3 = float((filled * (1 - water[head_part]).clamp(0, 1)).sum()) * voxel_cm3
        measures.append(
            [length, width, float(calcium[head_part].sum() / mass), air_cm3, float(top)]
        )
    length, width, calcium_share, air_cm3, top = torch.tensor(measures).T
    assert ((length > 15) & (length < 22.5)).all()
    assert ((width > 12) & (width < 17.5)).all()
    assert ((calcium_share > 0.02) & (calcium_share < 0.12)).all()
    for values, least in ((length, 0.03), (width, 0.03), (calcium_share, 0.06), (air_cm3, 0.1)):
        assert values.std() / values.mean() > least
    assert top.max() - top.min() > 3 / 0.8  # some scans show the vertex, others the base


def _inside(water):
    """Voxels with tissue on both sides along x."""
    tissue = (water > 0.5).float()
    return (tissue.cummax(2)[0] * tissue.flip(2).cummax(2)[0].flip(2)).bool()


def test_grid_too_narrow_raises():
    with pytest.raises(ValueError, match=r"20\.0 cm along x.*10\.0 cm"):
        head(0, VolumeGrid(4, 130, 50, 0.2))
    with pytest.raises(ValueError, match=r"along y.*23\.0 cm"):
        head(0, VolumeGrid(4, 130, 130, 0.2, center_cm=(0.0, 1.5, 0.0)))
