"""Ellipsoids have the mass, center and chords of their formulas."""

from math import cos, pi, sin

import pytest
import torch

from pcctlearn.phantoms.ellipses import Ellipse
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom, head_phantom
from pcctlearn.tomography.grids import VolumeGrid

ONE = EllipsoidPhantom([Ellipse((0.4, -0.3, 0.2), (2.0, 1.0, 0.7), (0.8, 0.1), 0.5)])


def test_chords_along_the_axes():
    center = torch.tensor([0.4, -0.3, 0.2])
    axes = torch.tensor([[cos(0.5), sin(0.5), 0.0], [-sin(0.5), cos(0.5), 0.0], [0.0, 0.0, 1.0]])
    water, calcium = ONE.line_integrals((center + 5 * axes).numpy(), axes.numpy())
    torch.testing.assert_close(water, 0.8 * 2 * torch.tensor([2.0, 1.0, 0.7]))
    torch.testing.assert_close(calcium, 0.1 * 2 * torch.tensor([2.0, 1.0, 0.7]))
    beside = (center + torch.tensor([0.0, 0.0, 0.71])).expand(2, 3)
    assert (ONE.line_integrals(beside.numpy(), axes[:2].numpy()) == 0).all()


@pytest.mark.parametrize(
    "grid",
    [
        VolumeGrid(24, 40, 60, 0.1),
        VolumeGrid(18, 31, 47, (0.15, 0.1, 0.12), center_cm=(0.1, -0.4, 0.3)),
    ],
)
def test_volumes_have_the_mass_and_center_of_the_ellipsoid(grid):
    water, calcium = ONE.volumes(grid, oversampling=4)
    voxel_cm3 = torch.tensor(grid.spacing_cm).prod()
    mass = water.sum() * voxel_cm3
    assert mass == pytest.approx(0.8 * 4 / 3 * pi * 2.0 * 1.0 * 0.7, rel=2e-3)
    torch.testing.assert_close(calcium, water / 8)
    (a, _, left), (_, b, top), _ = grid.index_to_cm.tolist()
    share = water / water.sum()
    assert (share.sum((0, 1)) * (a * torch.arange(grid.n_x) + left)).sum() == pytest.approx(
        0.4, abs=2e-3
    )
    assert (share.sum((0, 2)) * (b * torch.arange(grid.n_y) + top)).sum() == pytest.approx(
        -0.3, abs=2e-3
    )
    z = torch.from_numpy(grid.slices_cm)
    assert (share.sum((1, 2)) * z).sum() == pytest.approx(0.2, abs=2e-3)


def test_ellipsoid_outside_the_grid_is_left_out():
    beyond = VolumeGrid(4, 4, 4, 0.1, center_cm=(0.0, 9.0, 0.0))
    assert (ONE.volumes(beyond) == 0).all()


def test_head_has_plausible_densities():
    grid = VolumeGrid(60, 52, 44, 0.4)
    water, calcium = head_phantom().volumes(grid)
    assert water.min() >= -1e-12
    assert calcium.min() >= -1e-12
    assert water.max() == pytest.approx(1.13, abs=0.02)
    assert calcium.max() == pytest.approx(0.45, abs=0.01)
    assert water[30, 26, 22] == pytest.approx(1.03)
    assert (water[[0, -1]] == 0).all()
    assert 1.5 < (water + calcium).sum() * 0.4**3 / 1000 < 4.5  # kg


def test_mismatched_components_raise():
    with pytest.raises(ValueError, match="center_cm and semi_axes_cm"):
        Ellipse((0.0, 0.0), (1.0, 1.0, 1.0), (1.0,))
