"""Errors inside the field of view of a detector that is narrower than the object."""

from dataclasses import replace
from math import pi, radians

import pytest
import torch
from support.truth import image, sinogram

from pcctlearn.phantoms.ellipses import Ellipse
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.tomography.truncation import WaterExtended

pytestmark = pytest.mark.filterwarnings("ignore:truncated")

GRID = ImageGrid(72, 72, 0.34)  # a field of 12.2 cm
FAN = FanBeam(200, 70, 0.4, 62.5, 109.7)  # field of view of 8 cm radius
PARALLEL = ParallelBeam(200, 66, 0.24)
# of density 1, unlike those on which the number of fitted columns was chosen
OBJECTS = {
    "disc": [(0.0, 0.0, 10.5, 10.5, 0.0, 1.0)],
    "beside the axis": [(-2.5, 1.5, 8.5, 8.5, 0.0, 1.0)],
    "ellipse": [(0.4, -0.3, 11.5, 8.8, -0.5, 1.0)],
    "body": [
        (0.2, 0.4, 11.4, 9.3, 0.1, 1.0), (0.0, -5.0, 1.6, 1.4, 0.0, 0.5),
        (4.0, 2.0, 2.5, 3.0, 0.2, 0.06), (-4.0, 1.0, 2.0, 2.5, 0.0, -0.2),
    ],
}  # fmt: skip


def bias_HU(beam, ellipses, truncation):
    """Median error within 85 % of the radius that every view sees."""
    reconstruct = fbp(beam, GRID, backend="numba", truncation=truncation)
    error = reconstruct @ sinogram(beam, ellipses) - image(GRID, ellipses, oversampling=2)
    radius = 0.85 * min(beam.detector_extent_cm) / beam.magnification
    core = image(GRID, [(0.0, 0.0, radius, radius, 0.0, 1.0)], oversampling=1) > 0
    return 1000 * float(error[core].median())


@pytest.mark.parametrize("beam", [FAN, replace(FAN, arc_rad=radians(230)), PARALLEL])
@pytest.mark.parametrize("name", OBJECTS)
def test_a_water_cylinder_leaves_a_few_HU(beam, name):
    water = abs(bias_HU(beam, OBJECTS[name], "water"))
    assert water < (20 if name == "body" else 8)
    assert water < abs(bias_HU(beam, OBJECTS[name], "cosine"))


@pytest.mark.parametrize("beam", [FAN, PARALLEL])
def test_a_grid_slightly_wider_than_the_detector_is_wide_enough(beam):
    # the water cylinder extends to the corners of the grid, beyond its inscribed circle
    n = round(2.1 * beam.fov_radius_cm / 0.34)
    grid = ImageGrid(n, n, 0.34)
    disc = OBJECTS["disc"]
    error = fbp(beam, grid, backend="numba") @ sinogram(beam, disc) - image(grid, disc)
    seen = image(grid, [(0.0, 0.0, *2 * [0.95 * beam.fov_radius_cm], 0.0, 1.0)], 1) > 0
    assert 1000 * error[seen].abs().max() < 5  # HU; 60 on average if it ends at the circle


def test_a_truncated_ball_of_water():
    volume = VolumeGrid(9, 48, 48, 0.25)
    beam = ConeBeam(120, 24, 44, 0.3, 40.0, 64.0)  # field of view of 4 cm radius
    ball = EllipsoidPhantom([Ellipse((0.3, -0.2, 0.0), (5.5,) * 3, (1.0,))], ["water"])
    values = fbp(beam, volume, truncation="water") @ ball.line_integrals(*beam.rays())[0]
    assert values[4, 14:34, 14:34].median() == pytest.approx(1, abs=0.01)


def test_a_uniform_disc_of_any_density_is_extended_exactly():
    for density in (0.02, 1.0):
        disc = [(1.0, 0.5, 10.5, 10.5, 0.0, density)]
        reconstruct = fbp(FAN, GRID, backend="numba", truncation="water", water_density=density)
        extended = reconstruct.extend(sinogram(FAN, disc))
        n_before = reconstruct.extend.n_before
        wide = replace(
            FAN, n_columns=extended.shape[-1],
            offset_cm=(extended.shape[-1] - FAN.n_columns - 2 * n_before) / 2 * FAN.column_cm,
        )  # fmt: skip
        expected = sinogram(wide, disc)
        assert (extended - expected).abs().median() < 0.01 * density
        assert (extended - expected).abs().max() < 1.5 * density  # where the chord ends


def test_gradients_are_finite_and_air_is_extended_by_air():
    reconstruct = fbp(replace(FAN, n_views=9), GRID, backend="numba", truncation="water")
    x = torch.zeros(2, 9, 70, requires_grad=True)
    volumes = reconstruct @ x
    assert not volumes.any()
    volumes.sum().backward()
    assert x.grad.isfinite().all()
    x = (2 + torch.rand(9, 70)).requires_grad_()
    direction, step = torch.randn(9, 70), 1e-5
    (slope,) = torch.autograd.grad((reconstruct @ x).square().sum(), x)
    ends = [(reconstruct @ (x + sign * step * direction)).square().sum() for sign in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    assert (slope * direction).sum().item() == pytest.approx(expected.item(), rel=1e-4)


def test_no_extension_if_the_panel_contains_the_image():
    wide = replace(FAN, n_columns=120)
    assert not isinstance(fbp(wide, GRID, backend="numba", truncation="water"), WaterExtended)


def test_impossible_extensions_raise_an_error():
    with pytest.raises(ValueError, match=r"truncation .*water, cosine.* 'air'"):
        fbp(FAN, GRID, truncation="air")
    with pytest.raises(ValueError, match="water_density"):
        fbp(FAN, GRID, truncation="water", water_density=0.0)
    with pytest.raises(ValueError, match="WaterExtended"):
        fbp(FAN, GRID, backend="numba", truncation="water") @ torch.zeros(200, 71)


def test_a_displaced_panel_is_extended_on_its_longer_side():
    beam = replace(FAN, n_columns=52, offset_cm=5.0, arc_rad=2 * pi)  # 3.1 and 8.8 cm
    for name in ("disc", "ellipse"):
        assert abs(bias_HU(beam, OBJECTS[name], "water")) < 12


@pytest.mark.parametrize("extent_cm", [2.0, 0.61, 0.01, -2.0])  # of the shorter side, with its sign
@pytest.mark.parametrize("kind", ["fan", "parallel"])
def test_the_shorter_side_of_a_displaced_panel_is_not_extended(kind, extent_cm):
    # the fewer columns are measured twice, the larger is the weight of the edge column
    fan = replace(FAN, n_columns=70, pixel_cm=0.36, arc_rad=2 * pi)
    parallel = replace(PARALLEL, n_views=400, n_columns=80, arc_rad=2 * pi)
    beam = fan if kind == "fan" else parallel
    side = 1 if extent_cm > 0 else -1
    beam = replace(beam, offset_cm=side * (beam.n_columns * beam.column_cm / 2 - abs(extent_cm)))
    reconstruct = fbp(beam, GRID, backend="numba")
    error = reconstruct @ sinogram(beam, OBJECTS["disc"]) - image(GRID, OBJECTS["disc"])
    inner, outer = (image(GRID, [(0.0, 0.0, r, r, 0.0, 1.0)], 1) for r in (2.0, 9.0))
    assert abs(1000 * float(error[(outer - inner) == 1].mean())) < 2  # HU
