"""Volumes in any orientation are reordered to (z, y, x); arrays that are not CT in HU raise."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine

from pcctlearn.patients.ct_volume import (
    air_for_padding,
    ct_volume,
    reoriented,
    straightened,
)
from pcctlearn.phantoms.voxels import water_and_calcium

FILE = Path("folder/ct.nii")
AFFINE = np.array([[0, 0, -1, 0], [0, -2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
C, S = np.cos(np.radians(18.5)), np.sin(np.radians(18.5))


def scene():
    values = np.full((4, 5, 6), -1000.0)
    values[1:3, 1:3, 2:5] = 40
    return values


def made(values, affine=AFFINE, straighten=False):
    return ct_volume(FILE, air_for_padding(FILE, values), affine, straighten)


def test_volume_in_standard_orientation_is_unchanged():
    volume = made(scene())
    assert volume.hounsfield.dtype == torch.float32
    assert volume.voxel_cm == pytest.approx((0.3, 0.2, 0.1))
    np.testing.assert_array_equal(volume.hounsfield, scene())


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_every_orientation_is_reordered(order, signs):
    values = np.arange(60.0).reshape(3, 4, 5)
    stored = values.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    affine = AFFINE[:, [*order, 3]] * [*signs, 1]
    found, new_affine = reoriented(stored.copy(), affine)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_allclose(new_affine[:3, :3], AFFINE[:3, :3])


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_voxels_keep_their_patient_coordinates(order, signs):
    """A marked voxel has the patient coordinates that the stored array gives it."""
    affine = AFFINE[:, [*order, 3]]
    affine[:3, 3] = 30, 20, -40
    affine[:3, :3] *= signs
    stored = np.full(np.array([4, 5, 6])[list(order)], -1000.0)
    marked = tuple(np.array(stored.shape) // 2 - [1, 0, 1])
    stored[marked] = 500
    volume = made(stored, affine)
    (found,) = np.argwhere(volume.hounsfield.numpy() == 500)
    position_cm = (volume.index_to_patient @ [*found, 1])[:3]
    np.testing.assert_allclose(position_cm, apply_affine(affine, marked) / 10)


def test_padding_becomes_air():
    values = scene()
    values[:, 0], values[:, -1], values[:, :, 0] = -2048, -1500, -1024
    np.testing.assert_array_equal(made(values).hounsfield, made(scene()).hounsfield)


def test_nan_and_infinite_values_raise():
    values = scene()
    values[0, 0, :2] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"ct\.nii .* 2 NaN"):
        made(values)


def test_volume_without_air_raises():
    with pytest.raises(ValueError, match=r"ct\.nii .*no air.* -100 to 40"):
        made(scene().clip(min=-100))


@pytest.mark.parametrize("padding", [24, -2048])
def test_raw_counts_raise(padding):
    raw = scene() + 1024
    raw[:, 0] = padding
    with pytest.raises(ValueError, match=r"raw counts.*slope and intercept"):
        made(raw)


def test_two_dimensional_array_raises():
    with pytest.raises(ValueError, match=r"ct\.nii .*\(5, 6\)"):
        made(scene()[0])


def test_tilted_volume_raises_or_is_straightened():
    c, s = np.cos(0.3), np.sin(0.3)
    tilt = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    with pytest.raises(ValueError, match=r"17\.2°.*datasets\.straighten=true"):
        made(scene(), tilt @ AFFINE)
    made(scene(), tilt @ AFFINE, straighten=True)


def affine_of(slice_mm, row_mm=(0.0, -0.9, 0.0)):
    """Affine with columns of 0.8 mm to the left and these RAS steps to the next slice and row."""
    affine = np.eye(4)
    affine[:3] = np.array([slice_mm, row_mm, (-0.8, 0.0, 0.0), (30.0, 20.0, -40.0)]).T
    return affine


TILTED_ROW_MM = (0.0, -0.9 * C, -0.9 * S)
TILTED = {
    "gantry": (
        affine_of((0.0, 0.0, 3.0), TILTED_ROW_MM),
        3.0,
    ),  # spacing along z is the table increment
    "turned": (affine_of((0.0, -3.0 * S, 3.0 * C), TILTED_ROW_MM), 3.0 * C),
    "shifted": (affine_of((0.0, -1.0, 3.0)), 3.0),
}


@pytest.mark.parametrize("kind", TILTED)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_straightened_body_keeps_position_and_size(kind, order):
    """Straighten an ellipsoid that was stored along other axes."""
    affine, z_mm = TILTED[kind]
    affine = affine[:, [*order, 3]]
    shape = tuple(np.array([26, 64, 60])[list(order)])
    middle_mm = apply_affine(affine, (np.array(shape) - 1) / 2)
    center_mm = middle_mm + np.array([1.0, -2.0, 1.5])
    semi_axes_mm = np.array([12.0, 16.0, 20.0])

    position_mm = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    inside = (((position_mm - center_mm) / semi_axes_mm) ** 2).sum(-1) <= 1
    straight, upright = straightened(FILE, np.where(inside, 40.0, -1000.0), affine)

    np.testing.assert_allclose(upright[:3, :3], np.diag([0.8, 0.8, z_mm]))
    tissue = (straight + 1000) / 1040
    where_mm, weights = apply_affine(upright, np.argwhere(tissue > 0)), tissue[tissue > 0]
    voxel_mm = upright.diagonal()[:3]
    found_mm = np.average(where_mm, axis=0, weights=weights)
    assert (np.abs(found_mm - center_mm) < 0.1 * voxel_mm).all()
    spread_mm2 = np.cov(where_mm.T, aweights=weights)  # of an ellipsoid: diag(semi axes²) / 5
    extents_mm = 2 * np.sqrt(5 * spread_mm2.diagonal())
    assert (np.abs(extents_mm - 2 * semi_axes_mm) < 0.5 * voxel_mm).all()
    assert np.abs(spread_mm2 - np.diag(spread_mm2.diagonal())).max() < 1
    volume_mm3 = tissue.sum() * voxel_mm.prod()
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * semi_axes_mm.prod(), rel=0.02)


@pytest.mark.parametrize("slice_mm", np.linspace(1.1, 4.7, 13))
def test_shift_by_whole_pixels_is_undone_exactly(slice_mm):
    """Each slice is shifted back by three pixels; the first and last slices are kept too."""
    stored = np.full((4, 9, 8), -1000.0)
    stored[:, 2:6, 1:5] = 10.0 * np.arange(4)[:, None, None]
    affine = affine_of((0.0, -2.4, slice_mm), (0.0, -0.8, 0.0))
    volume = made(stored, affine, straighten=True).hounsfield
    volume = volume[:4, -18:, -8:]  # rounding may add a plane of air
    for k, plane in enumerate(volume):
        expected = torch.tensor(stored[k], dtype=torch.float32)
        torch.testing.assert_close(plane[3 * k : 3 * k + 9], expected)


@pytest.mark.parametrize("kind", TILTED)
def test_densities_are_converted_before_straightening(kind):
    """Fine bone keeps its calcium, which would be lost if interpolated HU were converted."""
    affine, z_mm = TILTED[kind]
    stored = np.full((26, 64, 60), -1000.0)
    stored[2:-2, 12:-12, 8:-8] = 40
    bone = np.random.default_rng(0).random((22, 40, 44)) < 0.1
    stored[2:-2, 12:-12, 8:-8][bone] = 500
    volume = made(stored, affine, straighten=True)
    masses = volume.densities(200.0).sum((1, 2, 3)) * 0.8 * 0.8 * z_mm
    expected = water_and_calcium(torch.from_numpy(stored)).sum((1, 2, 3)) * np.linalg.det(affine)
    torch.testing.assert_close(masses, expected.abs().to(masses), rtol=5e-3, atol=0)
    from_hounsfield = water_and_calcium(volume.hounsfield).sum((1, 2, 3)) * 0.8 * 0.8 * z_mm
    assert from_hounsfield[1] < 0.9 * expected[1].abs()


def test_straight_volume_is_not_resampled():
    c, s = np.cos(np.radians(1.9)), np.sin(np.radians(1.9))
    turn = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    values = np.random.default_rng(0).uniform(-1000, 1000, (4, 5, 6))
    for affine in (AFFINE, turn @ AFFINE):
        straight, plain = made(values, affine, straighten=True), made(values, affine)
        assert torch.equal(straight.hounsfield, plain.hounsfield)
        assert straight.voxel_cm == plain.voxel_cm
        assert straight.densities is None


def test_raw_counts_raise_before_straightening_adds_air():
    with pytest.raises(ValueError, match="raw counts"):
        made(scene() + 1024, TILTED["gantry"][0], straighten=True)


def test_zero_voxel_size_raises():
    for straighten in (False, True):
        with pytest.raises(ValueError, match=r"ct\.nii .*voxel sizes"):
            made(scene(), AFFINE * [1, 0, 1, 1], straighten)
