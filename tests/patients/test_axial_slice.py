"""Axial slices on any grid: of a procedural abdomen, or of a CT file."""

import nibabel as nib
import numpy as np
import pytest
import torch
from support.ct_files import REAL_CT

from pcctlearn.patients.axial_slice import AxialSlice
from pcctlearn.tomography.grids import ImageGrid

CHEST = REAL_CT / "chest_upper_abdomen.nii.gz"

GRID = ImageGrid(64, 64, 0.6)


def ct_file(path):
    """A block of water, 16 × 12 cm, around a bone of 1000 HU, with voxels of 5 mm."""
    volume = np.full((60, 60, 4), -1000, np.int16)
    volume[14:46, 18:42] = 0
    volume[28:32, 28:32] = 1000
    nib.save(nib.Nifti1Image(volume, np.diag([5.0, 5.0, 5.0, 1.0])), path)
    return str(path)


def test_procedural_abdomen():
    slice_ = AxialSlice(seed=3)
    maps = slice_.maps(0, GRID)
    assert maps.shape == (2, 64, 64)
    assert torch.equal(maps, AxialSlice(seed=3).maps(0, GRID))
    assert not torch.equal(maps, AxialSlice(seed=4).maps(0, GRID))
    assert slice_.names == ["procedural abdomen, seed 3"]


@pytest.mark.parametrize(("n", "voxel_cm"), [(60, 0.5), (100, 0.3)])
def test_mass_is_kept_on_any_grid(tmp_path, n, voxel_cm):
    maps = AxialSlice(ct_file(tmp_path / "ct.nii.gz"), index=1).maps(0, ImageGrid(n, n, voxel_cm))
    water, calcium = (maps * voxel_cm**2).sum((-2, -1))
    assert water == pytest.approx(16 * 12, rel=0.05)
    assert calcium > 0
    assert maps[1, 0, 0] == 0


def test_missing_file_raises_in_the_constructor(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ct\.nii.*not exist"):
        AxialSlice(str(tmp_path / "ct.nii"))


def test_body_too_wide_raises_or_is_shrunk(tmp_path):
    file = ct_file(tmp_path / "ct.nii")
    with pytest.raises(ValueError, match=r"15\.5 cm"):
        AxialSlice(file).maps(0, ImageGrid(32, 32, 0.5))
    slice_ = AxialSlice(file, fit=True)
    name = slice_.names
    with pytest.warns(UserWarning, match="shrunk"):
        maps = slice_.maps(0, ImageGrid(32, 32, 0.5))
    assert maps[0, 0].max() < 0.1  # air at the border
    assert slice_.names == name


@pytest.mark.skipif(not CHEST.exists(), reason=f"needs the real CT at {CHEST}")
def test_real_abdomen():
    maps = AxialSlice(str(CHEST), index=14).maps(0, ImageGrid(128, 128, 0.3))
    water, calcium = maps
    assert 0.9 < water[water > 0.5].median() < 1.1
    assert 0.1 < calcium.max() < 1.5
    assert (calcium > 0.01).double().mean() < 0.1
