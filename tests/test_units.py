"""Unit conversions at known values."""

import torch

from pcctlearn import units


def test_hounsfield_scale_is_fixed_by_air_and_water():
    mu = torch.tensor([0.0, 0.2, 0.3])
    hounsfield = units.hounsfield(mu, 0.2)
    torch.testing.assert_close(hounsfield, torch.tensor([-1000.0, 0.0, 500.0]))


def test_lengths():
    assert units.mm_to_cm(25.0) == 2.5
