"""Any axes turn into those of the house; what is not a CT in HU is refused by name."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch

from pcctlearn.datasets.ct_volume import ct_volume, in_house_axes

FILE = Path("folder/ct.nii")
AFFINE = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)


def scene():
    values = np.full((4, 5, 6), -1000.0)
    values[1:3, 1:3, 2:5] = 40
    return values


def made(values, affine=AFFINE):
    return ct_volume(FILE, values, affine, [0.3, 0.2, 0.1], "ct")


def test_house_axes_stay_as_they_are():
    volume = made(scene())
    assert volume.hounsfield.dtype == torch.float32
    assert volume.voxel_cm == (0.3, 0.2, 0.1)
    np.testing.assert_array_equal(volume.hounsfield, scene())


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((False, True), repeat=3)))
def test_every_turn_is_undone(order, signs):
    codes = np.array(["IS", "AP", "RL"])[list(order)]
    axes = tuple(pair[int(sign)] for pair, sign in zip(codes, signs, strict=True))
    values = np.arange(60.0).reshape(3, 4, 5)
    stored = values.transpose(order)[tuple(slice(None, None, 1 if s else -1) for s in signs)]
    np.testing.assert_array_equal(in_house_axes(stored, axes), values)


def test_padding_is_air():
    values = scene()
    values[:, 0], values[:, -1], values[:, :, 0] = -2048, -1500, -1024
    np.testing.assert_array_equal(made(values).hounsfield, made(scene()).hounsfield)


def test_not_a_number():
    values = scene()
    values[0, 0, :2] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"ct\.nii holds 2 NaN or infinite values.*set them to HU"):
        made(values)


def test_no_air():
    with pytest.raises(
        ValueError, match=r"ct\.nii has no air near -1000 HU.*-100 to 40; give a CT"
    ):
        made(scene().clip(min=-100))


@pytest.mark.parametrize("padding", [24, -2048])
def test_raw_counts(padding):
    raw = scene() + 1024
    raw[:, 0] = padding
    with pytest.raises(ValueError, match=r"raw counts, not HU; .* slope and intercept applied"):
        made(raw)


def test_not_a_volume():
    with pytest.raises(ValueError, match=r"ct\.nii has shape \(5, 6\); give one 3-D volume"):
        made(scene()[0])


def test_tilted():
    c, s = np.cos(0.3), np.sin(0.3)
    tilt = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    with pytest.raises(ValueError, match=r"ct\.nii is tilted by 17\.2°.*dcm2niix"):
        made(scene(), tilt @ AFFINE)


def test_voxels_without_a_size():
    with pytest.raises(ValueError, match=r"ct\.nii gives its voxels no size; convert it again"):
        made(scene(), AFFINE * [1, 0, 1, 1])
