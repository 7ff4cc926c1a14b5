"""The mask contains all of the patient, in one piece or several, without tables or bottles."""

import pytest
import torch

from pcctlearn.phantoms.body import body_mask, find_body

SHAPE, PIXEL_CM = (80, 120), 0.5
VOXEL_CM = (1.0, PIXEL_CM, PIXEL_CM)
Y, X = torch.meshgrid(
    *((torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * PIXEL_CM for n in SHAPE),
    indexing="ij",
)


def ellipse(y, x, b, a):
    return ((Y - y) / b) ** 2 + ((X - x) / a) ** 2 <= 1


def scanned(*regions, n_slices=6):
    """Air with regions, each given as (mask of a slice, HU, optional range of slices)."""
    volume = torch.full((n_slices, *SHAPE), -1000.0)
    for where, value, *slices in regions:
        chosen = slice(*slices) if slices else slice(None)
        volume[chosen][:, where] = float(value)
    return volume


def kept_share(volume, *regions):
    """Fraction of the voxels of these regions that are in the mask, and the body."""
    body = find_body(volume, VOXEL_CM)
    selected = torch.stack(regions).any(0)
    return body.mask[:, selected].double().mean().item(), body


TABLE = (Y > 12) & (Y < 14.5) & (X.abs() < 22)  # 44 × 2.5 cm, more than either thigh
THIN_TABLE = (Y > 12) & (Y < 12.6) & (X.abs() < 12)
TORSO = ellipse(0, 0, 10, 16)


@pytest.mark.parametrize("table_HU", [-200, 40, 300, 1500])
def test_both_thighs_are_kept(table_HU):
    left, right = ellipse(0, -9, 7, 6.5), ellipse(0.5, 9, 7, 6)
    volume = scanned((left, 40), (right, 40), (TABLE, table_HU))
    share, body = kept_share(volume, left, right)
    assert share > 0.97
    assert not body.mask[:, TABLE].any()
    (reported,) = body.left_out
    areas = [region.sum().item() * (value + 1000) for region, value in
             ((TABLE, table_HU), (left | right, 40))]  # fmt: skip
    assert reported == pytest.approx(areas[0] / areas[1], rel=0.05)


@pytest.mark.parametrize("radius_cm", [3.5, 4.5, 5.5])
def test_arms_beside_the_chest_are_kept(radius_cm):
    arms = [ellipse(2, side * (16.9 + radius_cm), radius_cm, radius_cm) for side in (-1, 1)]
    lungs = [ellipse(0, side * 7, 6, 5) for side in (-1, 1)]
    regions = [(TORSO, 40), *((lung, -800) for lung in lungs), *((arm, 50) for arm in arms)]
    share, body = kept_share(scanned(*regions, (THIN_TABLE, 300)), TORSO, *arms)
    assert share > 0.97
    assert not body.mask[:, THIN_TABLE].any()


def test_lower_legs_of_unequal_size_are_kept():
    left, right = ellipse(0, -8, 4, 4), ellipse(0, 8, 3, 2.5)
    share, _ = kept_share(scanned((left, 40), (right, 40)), left, right)
    assert share > 0.95


def test_blanket_over_a_head_is_left_out():
    head, blanket = ellipse(0, 0, 9, 7.5), ellipse(0, 0, 11.5, 10) & ~ellipse(0, 0, 10.5, 9)
    volume = scanned((head, 40), (blanket, -700), (TABLE, 100))
    share, body = kept_share(volume, head)
    assert share > 0.97
    assert not body.mask[:, blanket | TABLE].any()


@pytest.mark.parametrize("n_slices", [1, 3])
def test_bottle_beside_the_neck_is_left_out(n_slices):
    """The bottle is wider than the neck but has a small share of the total mass."""
    head, neck, bottle = ellipse(0, 0, 10, 10), ellipse(0, 0, 3, 3), ellipse(0, 15, 4, 4)
    volume = scanned((head, 40, 0, 6), (neck, 40), (bottle, 0, 9 - n_slices, None), n_slices=9)
    body = find_body(volume, VOXEL_CM)
    assert body.mask[8, SHAPE[0] // 2, SHAPE[1] // 2]
    assert not body.mask[:, bottle].any()
    (share,) = body.left_out
    expected = 16 * n_slices / (100 * 6 + 9 * 3) / 1.04
    assert share == pytest.approx(expected, rel=0.15)


def test_table_heavier_than_the_patient_is_left_out():
    hand = ellipse(0, 0, 3, 5)
    share, body = kept_share(scanned((hand, 40), (TABLE, 40)), hand)
    assert share > 0.95
    assert not body.mask[:, TABLE].any()


def test_slice_and_volume_of_equal_slices_agree():
    plane = scanned((TORSO, 40), (THIN_TABLE, 300))[0]
    mask = body_mask(plane, VOXEL_CM[1:])
    assert (find_body(plane.expand(7, -1, -1), VOXEL_CM).mask == mask).all()
    assert not mask[THIN_TABLE].any()


def test_lungs_are_kept():
    lung = ellipse(0, 7, 6, 5)
    assert body_mask(scanned((TORSO, 40), (lung, -800))[0], VOXEL_CM[1:])[lung].all()


def test_patient_alone_leaves_nothing_out():
    assert find_body(scanned((TORSO, 40)), VOXEL_CM).left_out == ()


@pytest.mark.parametrize(("n_slices", "where"), [(1, "slice"), (3, "volume")])
def test_empty_volume_raises(n_slices, where):
    with pytest.raises(ValueError, match=rf"no body.*{where}.* -300 HU"):
        find_body(scanned(n_slices=n_slices), VOXEL_CM)
