"""Every conversion undoes its inverse and knows its fixed points."""

import pytest
import torch

from pcctlearn import units


def test_hounsfield_scale_is_fixed_by_air_and_water():
    mu = torch.tensor([0.0, 0.2, 0.3])
    hounsfield = units.hounsfield(mu, 0.2)
    torch.testing.assert_close(hounsfield, torch.tensor([-1000.0, 0.0, 500.0]))
    torch.testing.assert_close(units.mu_from_hounsfield(hounsfield, 0.2), mu)


def test_lengths_and_densities():
    density = torch.tensor([0.62])
    assert units.mm_to_cm(25.0) == 2.5
    torch.testing.assert_close(units.g_cm3_to_mg_ml(density), torch.tensor([620.0]))
    torch.testing.assert_close(units.mg_ml_to_g_cm3(units.g_cm3_to_mg_ml(density)), density)


@pytest.mark.parametrize(("material", "area_density"), [("water", 2.0), ("calcium", 3.1)])
def test_two_cm_at_reference_density(material, area_density):
    thickness = torch.tensor([2.0])
    found = units.area_density_g_cm2(thickness, material)
    torch.testing.assert_close(found, torch.tensor([area_density]))
    torch.testing.assert_close(units.thickness_cm(found, material), thickness)


def test_unknown_reference_density_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'iron'.*water, calcium"):
        units.thickness_cm(torch.ones(1), "iron")
