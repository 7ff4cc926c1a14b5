"""Procedural cases depend only on their seed."""

import pytest
import torch

from pcctlearn.patients.procedural import ProceduralCases
from pcctlearn.tomography.grids import VolumeGrid


def test_case_depends_only_on_its_seed():
    grid = VolumeGrid(6, 28, 24, 1.0)
    few, many = ProceduralCases("head", 2, 3), ProceduralCases("head", 4, 1)
    assert few.names == ["head_00003", "head_00004"] == many.names[2:]
    assert len(many) == 4
    maps = few.maps(0, grid)
    assert maps.dtype == torch.float32
    assert torch.equal(maps, many.maps(2, grid))
    assert not torch.equal(maps, few.maps(1, grid))


def test_abdomen():
    maps = ProceduralCases("abdomen", 1).maps(0, VolumeGrid(4, 40, 50, 1.0))
    assert maps[0].max() > 0.9


@pytest.mark.parametrize(("n_cases", "first_seed"), [(0, 0), (3, -1)])
def test_invalid_numbers_raise(n_cases, first_seed):
    with pytest.raises(ValueError, match=rf"datasets\.n_cases .*{n_cases} and {first_seed}"):
        ProceduralCases("head", n_cases, first_seed)


def test_index_out_of_range_raises():
    with pytest.raises(IndexError, match="0 to 1"):
        ProceduralCases("head", 2).maps(2, VolumeGrid(2, 28, 24, 1.0))
