"""Procedural cases are named by their seeds, and come on any grid."""

import pytest
import torch

from pcctlearn.patients.procedural import ProceduralCases
from pcctlearn.tomography.grids import VolumeGrid


def test_a_case_is_its_seed_whatever_the_others_are():
    grid = VolumeGrid(6, 28, 24, 1.0)
    few, many = ProceduralCases("head", 2, 3), ProceduralCases("head", 4, 1)
    assert few.names == ["head_00003", "head_00004"] == many.names[2:]
    assert len(many) == 4
    maps = few.maps(0, grid)
    assert maps.dtype == torch.float32
    assert torch.equal(maps, many.maps(2, grid))
    assert not torch.equal(maps, few.maps(1, grid))


def test_abdomens_too():
    maps = ProceduralCases("abdomen", 1).maps(0, VolumeGrid(4, 40, 50, 1.0))
    assert maps[0].max() > 0.9


@pytest.mark.parametrize(("n_cases", "first_seed"), [(0, 0), (3, -1)])
def test_no_cases_or_no_seed_are_refused(n_cases, first_seed):
    with pytest.raises(ValueError, match=r"datasets\.n_cases must be 1 or more"):
        ProceduralCases("head", n_cases, first_seed)


def test_a_case_that_is_not_there():
    with pytest.raises(IndexError, match="cases 0 to 1"):
        ProceduralCases("head", 2).maps(2, VolumeGrid(2, 28, 24, 1.0))
