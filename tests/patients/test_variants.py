"""Variants of a case are small, reproducible changes and are listed after their case."""

import pytest
import torch
from support.ct_files import round_patient

from pcctlearn.patients.procedural import ProceduralCases
from pcctlearn.patients.variants import Variants, augmentation
from pcctlearn.phantoms.voxels import water_and_calcium
from pcctlearn.tomography.grids import VolumeGrid

GRID = VolumeGrid(8, 32, 32, 0.9)
STILL = {"flip": 0.0, "rotation_deg": 0.0, "scale": 0.0, "shift_voxels": 0.0, "density": 0.0}


def maps():
    return water_and_calcium(torch.from_numpy(round_patient()).float())


def heads(**options):
    return Variants(ProceduralCases("head", n_cases=2), n_variants=2, **options)


def test_same_seed_gives_the_same_sequence():
    first, second, other = augmentation(1), augmentation(1), augmentation(2)
    for _ in range(2):
        assert torch.equal(moved := first(maps()), second(maps()))
        assert not torch.equal(moved, other(maps()))
    assert type(moved) is torch.Tensor
    assert moved.dtype == torch.float32


def test_flip_exchanges_left_and_right():
    only_flip = augmentation(0, **{**STILL, "flip": 1.0})
    torch.testing.assert_close(only_flip(maps()), maps().flip(-1), rtol=0, atol=1e-4)


def test_changes_are_small():
    change = augmentation(5)
    for _ in range(5):
        water = change(maps())[0]
        assert water.sum() == pytest.approx(maps()[0].sum().item(), rel=0.25)
        assert water.max() == pytest.approx(1.21, abs=0.2)


def test_variants_follow_their_case():
    cases = heads()
    first, second = cases.cases.names
    expected = [first, f"{first}_variant_1", f"{first}_variant_2", second]
    assert cases.names[:4] == expected
    assert len(cases) == len(cases.names) == 6


def test_case_is_unchanged_and_variants_differ():
    cases = heads()
    original, one, two = (cases.maps(index, GRID) for index in range(3))
    assert torch.equal(original, cases.cases.maps(0, GRID))
    assert not torch.equal(one, original)
    assert not torch.equal(one, two)
    assert (one >= 0).all()
    assert torch.equal(one, heads().maps(1, GRID))
    assert not torch.equal(one, heads(seed=1).maps(1, GRID))


def test_variant_without_change_equals_its_case():
    cases = heads(**STILL)
    torch.testing.assert_close(cases.maps(4, GRID), cases.maps(3, GRID), rtol=0, atol=1e-4)
    assert cases.placed(4, GRID).scanner_to_patient is None


@pytest.mark.parametrize("index", [-1, 6])
def test_index_out_of_range_raises(index):
    with pytest.raises(IndexError, match=rf"0 to 5.* {index}$"):
        heads().maps(index, GRID)


def test_wrong_options_raise():
    with pytest.raises(ValueError, match=r"n_variants .* 0$"):
        Variants(ProceduralCases("head", n_cases=2), n_variants=0)
    with pytest.raises(TypeError, match="tilt"):
        heads(tilt=1.0)
