"""Procedural abdomens are reproducible, plausible and different for every seed."""

import pytest
import torch
from torch.nn.functional import avg_pool3d

from pcctlearn.phantoms.abdomens import FIELD_CM, abdomen_slice, abdomen_volume
from pcctlearn.phantoms.placement import BodyTooWideError
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid

COARSE = VolumeGrid(20, 32, 42, (1.6, 1.0, 1.0))


def test_abdomen_depends_only_on_its_seed():
    patient = abdomen_volume(1, COARSE, oversampling=1)
    assert patient.dtype == torch.float32
    torch.testing.assert_close(abdomen_volume(1, COARSE, oversampling=1), patient, rtol=0, atol=0)
    torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(abdomen_volume(1, COARSE, oversampling=1), patient, rtol=0, atol=0)
    assert (abdomen_volume(2, COARSE, oversampling=1) - patient).abs().mean() > 0.02


def test_abdomen_is_the_same_on_a_finer_grid():
    coarse = abdomen_volume(3, VolumeGrid(16, 36, 48, (1.0, 0.9, 0.9)))
    finer = avg_pool3d(abdomen_volume(3, VolumeGrid(32, 72, 96, (0.5, 0.45, 0.45))), 2)
    assert (finer - coarse).abs().mean() < 0.03 * coarse[0].mean()
    torch.testing.assert_close(finer.mean((1, 2, 3)), coarse.mean((1, 2, 3)), rtol=0.02, atol=1e-4)


@pytest.fixture(scope="module")
def abdomens():
    return [abdomen_volume(seed, COARSE) for seed in range(8)]


def test_densities_are_plausible_and_within_the_field(abdomens):
    y = 1.0 * (torch.arange(COARSE.n_y) - (COARSE.n_y - 1) / 2)
    x = 1.0 * (torch.arange(COARSE.n_x) - (COARSE.n_x - 1) / 2)
    outside = (y.abs()[:, None] > FIELD_CM[0] / 2) | (x.abs() > FIELD_CM[1] / 2)
    for water, calcium in abdomens:
        assert water.min() >= 0
        assert water.max() < 1.35
        assert calcium.min() >= 0
        assert 0.08 < calcium.max() < 0.5
        assert (water[:, outside] < 1e-6).all()


def test_abdomens_vary_in_size_and_bone(abdomens):
    measures = []
    for water, calcium in abdomens:
        body = water > 0.3
        width, depth = (float(body[4].any(axis).sum()) for axis in (0, 1))
        bone = float(calcium.sum() / water.sum())
        inside = torch.where(body.any(2))[0]
        assert len(inside) > 0
        measures.append([width, depth, bone, float(water.sum())])
    width, depth, bone, mass = torch.tensor(measures).T
    assert ((width >= 28) & (width <= 39)).all()
    assert ((depth >= 19) & (depth <= 29)).all()
    assert ((bone > 0.003) & (bone < 0.03)).all()
    for values, least in ((width, 0.03), (depth, 0.03), (bone, 0.08), (mass, 0.05)):
        assert values.std() / values.mean() > least


def test_grid_too_narrow_raises():
    with pytest.raises(ValueError, match=r"39\.0 cm along x.*30\.0 cm"):
        abdomen_volume(0, VolumeGrid(4, 100, 100, 0.3))


def test_slice_agrees_with_the_volume_on_any_grid():
    volume = abdomen_volume(1, VolumeGrid(1, 100, 140, 0.3), oversampling=3)
    for n in (120, 128):  # narrower than the volume, with an odd and an even offset
        image = abdomen_slice(1, ImageGrid(n, n, 0.3))
        torch.testing.assert_close(
            image[:, (n - 100) // 2 : (n + 100) // 2].float(),
            volume[:, 0, :, (140 - n) // 2 : (140 + n) // 2],
        )


def test_slice_too_wide_for_its_grid_raises():
    with pytest.raises(BodyTooWideError, match=r"seed 1 .*19\.2 cm") as error:
        abdomen_slice(1, ImageGrid(64, 64, 0.3))
    assert 16 < error.value.radius_cm < 20
