"""Every conversion knows its fixed points, and undoes its inverse where it has one."""

import pytest
import torch

from pcctlearn import units


def test_hounsfield_scale_is_fixed_by_air_and_water():
    mu = torch.tensor([0.0, 0.2, 0.3])
    hounsfield = units.hounsfield(mu, 0.2)
    torch.testing.assert_close(hounsfield, torch.tensor([-1000.0, 0.0, 500.0]))


def test_lengths():
    assert units.mm_to_cm(25.0) == 2.5


@pytest.mark.parametrize(("material", "area_density"), [("water", 2.0), ("calcium", 3.1)])
def test_two_cm_at_reference_density(material, area_density):
    thickness = torch.tensor([2.0])
    found = units.area_density_g_cm2(thickness, material)
    torch.testing.assert_close(found, torch.tensor([area_density]))
    torch.testing.assert_close(units.thickness_cm(found, material), thickness)


def test_unknown_reference_density_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'iron'.*water, calcium"):
        units.thickness_cm(torch.ones(1), "iron")
