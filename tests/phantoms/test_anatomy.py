"""A seed is a patient: reproducible, different from the next, plausible, and inside the field."""

import pytest
import torch

from pcctlearn.phantoms.anatomy import FIELD_CM, abdomen
from pcctlearn.phantoms.ellipses import voxel_centers


def patient(seed, n=128, voxel_cm=0.3):
    return abdomen(torch.Generator().manual_seed(seed), n, n, voxel_cm)


def test_a_seed_is_a_patient():
    seed_1 = patient(1)
    torch.testing.assert_close(patient(1), seed_1, rtol=0, atol=0)
    torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(patient(1).double(), seed_1, rtol=0, atol=0)
    assert (patient(1) - patient(2)).abs().mean() > 0.02


def test_a_patient_is_the_same_on_a_finer_grid():
    coarse, fine = patient(3), patient(3, n=256, voxel_cm=0.15)
    averaged = torch.nn.functional.avg_pool2d(fine, 2)
    assert (averaged - coarse).abs().mean() < 5e-3


@pytest.mark.parametrize("seed", range(6))
def test_densities_are_those_of_a_body_within_the_field(seed):
    water, calcium = patient(seed)
    outside = voxel_centers(128, 128, 0.3).norm(dim=-1) > FIELD_CM / 2
    assert (water[outside] == 0).all()
    assert water.min() >= 0
    assert water.max() < 1.35
    assert calcium.min() >= 0
    assert 0.2 < calcium.max() < 0.5
    body_cm2 = (water > 0.5).sum() * 0.3**2
    assert 500 < body_cm2 < 850
    assert 0.01 < (calcium > 0.05).sum() * 0.3**2 / body_cm2 < 0.1


def test_a_field_too_small_is_refused():
    with pytest.raises(ValueError, match=r"38\.4 cm.*19\.2 cm; take more voxels"):
        patient(0, n=64)
