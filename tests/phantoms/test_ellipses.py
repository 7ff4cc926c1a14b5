"""Line integrals are exact: they integrate to the mass and agree with the voxel maps."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from pcctlearn.phantoms.ellipses import (
    Ellipse,
    EllipsePhantom,
    iodine_abdomen,
    voxel_centers,
    water_calcium_phantom,
)
from pcctlearn.tomography.grids import ImageGrid

TILTED = EllipsePhantom(
    [
        Ellipse((0.5, -0.7), (3.0, 1.2), (1.0, 0.0), tilt_rad=0.6),
        Ellipse((1.5, 0.2), (0.8, 0.5), (-0.4, 0.62), tilt_rad=-1.1),
    ]
)


def parallel_rays(angles_rad, s_cm):
    """Points and directions (view, column) with detector coordinate s = x cosθ + y sinθ."""
    theta, s = np.meshgrid(angles_rad, s_cm, indexing="ij")
    points = np.stack([s * np.cos(theta), s * np.sin(theta)], -1)
    return points, np.stack([-np.sin(theta), np.cos(theta)], -1)


@pytest.mark.parametrize("phantom", [TILTED, water_calcium_phantom()])
def test_every_view_integrates_to_area_times_density(phantom):
    s = np.linspace(-15, 15, 6001)
    line_integrals = phantom.line_integrals(*parallel_rays(np.linspace(0, math.pi, 7), s))
    mass = sum(
        math.pi * math.prod(ellipse.semi_axes_cm) * torch.tensor(ellipse.densities_g_cm3)
        for ellipse in phantom.ellipses
    )
    found = torch.trapezoid(line_integrals, torch.from_numpy(s))
    torch.testing.assert_close(found, mass[:, None].expand_as(found), rtol=3e-4, atol=0)


def test_line_integrals_agree_with_sums_through_the_maps():
    n, voxel_cm, step_cm = 400, 0.025, 0.01
    maps = TILTED.maps(ImageGrid(n, n, voxel_cm), oversampling=4)
    points, directions = parallel_rays([0.0, 0.4, 1.9], np.linspace(-2.5, 2.5, 11))
    t = np.arange(-6, 6, step_cm)[:, None]
    x, y = np.moveaxis(points[..., None, :] + t * directions[..., None, :], -1, 0)
    middle = (n - 1) / 2
    where = [middle - y / voxel_cm, middle + x / voxel_cm]
    sums = [step_cm * map_coordinates(m, where, order=1).sum(-1) for m in maps.numpy()]
    torch.testing.assert_close(
        TILTED.line_integrals(points, directions), torch.tensor(np.array(sums)), rtol=0, atol=0.05
    )


def test_chords_along_the_axes_of_a_tilted_ellipse():
    tilt = 0.6
    phantom = EllipsePhantom([Ellipse((0.0, 0.0), (3.0, 1.2), (1.0,), tilt)], ["water"])
    along = np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    found = phantom.line_integrals(np.zeros((2, 2)), along)
    torch.testing.assert_close(found, torch.tensor([[6.0, 2.4]], dtype=torch.float64))


def test_any_point_on_the_line_gives_the_same_integral():
    points, directions = parallel_rays([0.3], [0.2, 1.0, 50.0])
    expected = TILTED.line_integrals(points, directions)
    found = TILTED.line_integrals(points - 60 * directions, directions)
    torch.testing.assert_close(found, expected)
    assert (expected[:, 0, 2] == 0).all()


def test_x_increases_along_rows_and_y_decreases_along_columns():
    corner = voxel_centers(4, 6, 0.5)[0, 0]
    torch.testing.assert_close(corner, torch.tensor([-1.25, 0.75]))
    maps = EllipsePhantom([Ellipse((1.0, 0.5), (0.2, 0.2), (1.0,))], ["water"]).maps(
        ImageGrid(4, 6, 0.5)
    )
    covered = (maps[0] > 0).nonzero()
    assert covered[:, 0].max() <= 1
    assert covered[:, 1].min() >= 3


def test_calibration_phantom_of_1_has_the_published_sizes():
    phantom = water_calcium_phantom()
    across = phantom.line_integrals(np.zeros((1, 2)), np.array([[1.0, 0.0]]))
    calcium = 2 * 3.84 * 0.62
    expected = torch.tensor([[26.88 - calcium / 1.55], [calcium]], dtype=torch.float64)
    torch.testing.assert_close(across, expected)
    insert = phantom.maps(ImageGrid(64, 192, 0.15))[:, 32, 96 + round(6.5 / 0.15)]
    torch.testing.assert_close(insert, torch.tensor([0.6, 0.62], dtype=torch.float64))


def test_invalid_ellipses_raise():
    with pytest.raises(ValueError, match="semi_axes_cm"):
        Ellipse((0.0, 0.0), (1.0, 0.0), (1.0,))
    with pytest.raises(ValueError, match="one density"):
        EllipsePhantom([Ellipse((0.0, 0.0), (1.0, 1.0), (1.0,))])


def test_the_iodine_abdomen_has_its_materials():
    phantom = iodine_abdomen()
    maps = phantom.maps(ImageGrid(220, 220, 0.1), oversampling=2)
    names = list(phantom.materials)
    assert names == ["water", "adipose", "cortical_bone", "iodine"]
    water, iodine = maps[0], maps[3]
    assert iodine.max() == pytest.approx(0.010)
    assert (maps.sum(0) > 0).double().mean() * 22.0**2 == pytest.approx(
        math.pi * 11.2 * 8.2, rel=0.02
    )
    assert water[110, 110] == pytest.approx(1.0)
