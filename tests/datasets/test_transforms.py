"""Networks get what the reader gave; augmentation is repeatable and keeps air as air."""

import nibabel as nib
import numpy as np
import pytest
import torch
from support.ct_files import round_patient, write_nifti

from pcctlearn.datasets.nifti import read_nifti
from pcctlearn.datasets.transforms import augmentation, network_input
from pcctlearn.phantoms.voxels import water_and_calcium


def test_house_axes_are_kept_and_others_are_those_of_nibabel(tmp_path):
    file = write_nifti(tmp_path / "ct.nii.gz", codes="IPL")
    volume = read_nifti(file)
    kept = network_input()(volume)
    assert type(kept) is torch.Tensor
    assert torch.equal(kept[0], volume.hounsfield)
    canonical = nib.as_closest_canonical(nib.load(file)).get_fdata()
    np.testing.assert_array_equal(network_input(axes="RAS")(volume)[0], canonical)


def test_resampling_keeps_what_is_there(tmp_path):
    before = read_nifti(write_nifti(tmp_path / "ct.nii", round_patient(), (5.0, 5.0, 5.0)))
    after = network_input((0.25, 0.25, 0.5))(before)
    assert after.shape == (1, 48, 128, 64)
    assert after.dtype == torch.float32
    mass, mass_before = (1000 + after).sum() / 4, (1000 + before.hounsfield).sum()
    assert mass == pytest.approx(mass_before.item(), rel=0.02)


def maps():
    return water_and_calcium(torch.from_numpy(round_patient()).float())


def test_the_same_seed_gives_the_same_sequence():
    first, second, other = augmentation(1), augmentation(1), augmentation(2)
    for _ in range(2):
        assert torch.equal(moved := first(maps()), second(maps()))
        assert not torch.equal(moved, other(maps()))
    assert type(moved) is torch.Tensor
    assert moved.dtype == torch.float32


def test_left_and_right_are_exchanged():
    only_flip = augmentation(0, flip=1.0, rotation_deg=0.0, scale=0.0, shift_voxels=0.0, jitter=0.0)
    torch.testing.assert_close(only_flip(maps()), maps().flip(-1), rtol=0, atol=1e-4)


def test_augmentation_is_small():
    change = augmentation(5)
    for _ in range(5):
        water = change(maps())[0]
        assert water.sum() == pytest.approx(maps()[0].sum().item(), rel=0.25)
        assert water.max() == pytest.approx(1.21, abs=0.2)


def test_hounsfield_units_and_maps_change_alike():
    """HU = 1000 (density − 1): what moves in from outside is air in both."""
    density = maps()[:1]
    moved = augmentation(4, shift_voxels=10.0)(density)
    moved_HU = augmentation(4, air=-1000.0, shift_voxels=10.0)(1000 * (density - 1))
    torch.testing.assert_close(moved_HU, 1000 * (moved - 1), rtol=0, atol=0.5)
    assert moved_HU.min() >= -1000.1
