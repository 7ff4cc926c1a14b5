"""A placed patient keeps its mass and position, and the table is removed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcctlearn.phantoms.body import find_body
from pcctlearn.phantoms.ellipses import voxel_centers
from pcctlearn.phantoms.placement import BodyTooWideError, place_body
from pcctlearn.phantoms.voxels import water_and_calcium
from pcctlearn.tomography.grids import VolumeGrid


def patient_on_a_table(spacing_cm=(0.08, 0.1), semi_axes_cm=(10.0, 7.0)):
    """An off-center ellipse of soft tissue with a lung, above a thin table."""
    x, y = voxel_centers(400, 400, 1.0).unbind(-1)
    x, y = x * spacing_cm[1] - 3, y * spacing_cm[0] - 2
    a, b = semi_axes_cm
    hounsfield = torch.full((400, 400), -1000.0)
    hounsfield[(x / a) ** 2 + (y / b) ** 2 <= 1] = 40
    hounsfield[x**2 + y**2 <= 4] = -800
    hounsfield[(y + b + 1).abs() < 0.2] = 300
    return hounsfield


VOXEL_CM = (0.3, 0.08, 0.1)


def placed_slices(n_y, n_x, voxel_cm, **options):
    volume = patient_on_a_table().expand(7, -1, -1)
    return place_body(volume, VOXEL_CM, VolumeGrid(5, n_y, n_x, (0.3, voxel_cm, voxel_cm)),
                      **options)  # fmt: skip


def sponge(seed, shape):
    """An ellipsoid of fine bone and fat, which smoothing before the threshold would change."""
    random = torch.Generator().manual_seed(seed)
    tissue = torch.tensor([40.0, -100.0, 350.0, 1500.0])[torch.randint(4, shape, generator=random)]
    axes = [(torch.arange(n) - (n - 1) / 2) / (0.42 * n) for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.where(z**2 + y**2 + x**2 < 1, tissue, -1000.0)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.floats(0.08, 0.8)] * 3),
    st.tuples(*[st.floats(0.4, 8.0)] * 3),
    st.tuples(*[st.floats(-0.6, 0.6)] * 3),
    st.floats(0.5, 1.5),
    st.integers(0, 1000),
)
def test_masses_are_kept_for_every_ratio_of_voxel_sizes(voxel_cm, ratio, center_cm, room, seed):
    """Water and calcium within 0.5 % for fine, coarse, anisotropic and off-center grids."""
    shape = (18, 20, 22)
    hounsfield = sponge(seed, shape)
    size_cm = tuple(a * b for a, b in zip(voxel_cm, ratio, strict=True))
    wide_cm = 2 + room * 0.8 * max(n * size for n, size in zip(shape, voxel_cm, strict=True))
    n_z = int(np.ceil(shape[0] / ratio[0])) + 3
    grid = VolumeGrid(
        n_z, *(int(np.ceil(wide_cm / size)) for size in size_cm[1:]), size_cm, center_cm
    )
    mask = find_body(hounsfield, voxel_cm).mask
    body = place_body(hounsfield, voxel_cm, grid, fit=True)
    in_source = (water_and_calcium(hounsfield) * mask).sum((1, 2, 3)) * np.prod(voxel_cm)
    on_grid = body.maps.sum((1, 2, 3)) * np.prod(size_cm)
    np.testing.assert_allclose(on_grid, in_source * body.scale**3, rtol=5e-3)


@pytest.mark.parametrize("n_z", [1, 2, 5])
def test_body_longer_than_the_grid_is_cut_off(n_z):
    """The mass on the grid is the mass per length times the length of the grid."""
    volume = patient_on_a_table().expand(40, -1, -1)
    grid = VolumeGrid(n_z, 128, 160, (0.55, 0.2, 0.2))
    body = place_body(volume, VOXEL_CM, grid)
    mask = find_body(volume, VOXEL_CM).mask
    per_cm = (water_and_calcium(volume[0]) * mask[0]).sum((1, 2)) * 0.08 * 0.1
    on_grid = body.maps.double().sum((1, 2, 3)) * 0.55 * 0.2**2
    torch.testing.assert_close(on_grid, per_cm * 0.55 * n_z, rtol=1e-5, atol=1e-9)


def test_densities_are_converted_before_averaging():
    """The mean HU of a bone plate of 0.1 cm in voxels of 0.4 cm is below the threshold."""
    hounsfield = torch.full((8, 100, 100), -1000.0)
    hounsfield[:, 20:80, 20:80] = 0
    hounsfield[:, 20:80, 49] = 700
    body = place_body(hounsfield, (0.4, 0.1, 0.1), VolumeGrid(8, 25, 25, 0.4))
    plate = water_and_calcium(torch.tensor([700.0]))[1].item() * 3.2 * 6 * 0.1
    assert body.maps[1].double().sum().item() * 0.4**3 == pytest.approx(plate, rel=1e-5)


def test_body_is_centered_and_keeps_its_area():
    body = placed_slices(128, 160, 0.2)
    water = body.maps[0, 2].double()
    y, x = (water > 0.5).nonzero().double().mean(0)
    assert body.scale == 1
    assert abs(y - 63.5) < 0.1
    assert abs(x - 79.5) < 0.1
    expected = torch.pi * (10.0 * 7.0 * 1.04 - 2**2 * 0.84)
    assert abs(water.sum() * 0.2**2 / expected - 1) < 0.01
    assert body.maps[1].max() == 0  # the table is removed


def test_body_wider_than_the_field_raises_or_is_shrunk():
    with pytest.raises(BodyTooWideError, match=r"19\.\d cm.*16\.0 cm.*datasets\.fit=true"):
        placed_slices(80, 80, 0.2)
    body = placed_slices(80, 80, 0.2, fit=True)
    water = body.maps[0, 2]
    inside = voxel_centers(80, 80, 0.2).norm(dim=-1) < 8.0
    assert 0.75 < body.scale < 0.82
    assert (water[~inside] < 0.01).all()
    assert (water[40] > 0.1).sum() * 0.2 == pytest.approx(20 * body.scale, abs=0.4)


def test_radius_of_the_error_is_sufficient():
    with pytest.raises(BodyTooWideError) as error:
        placed_slices(80, 80, 0.2)
    n = int(np.ceil(2 * error.value.radius_cm / 0.2))
    assert placed_slices(n, n, 0.2).scale == 1


def test_only_the_part_on_the_grid_must_fit():
    """Shoulders beyond the grid along z neither raise an error nor shift the patient."""
    y, x = torch.meshgrid(torch.arange(80) - 40.0, torch.arange(80) - 40.0, indexing="ij")
    volume = torch.full((9, 80, 80), -1000.0)
    volume[:, y**2 + x**2 < 12**2] = 40
    volume[[0, 8], 20:60, 28:78] = 40
    body = place_body(volume, (1.0, 0.5, 0.5), VolumeGrid(5, 30, 30, (1.0, 0.5, 0.5)))
    assert body.scale == 1
    torch.testing.assert_close(body.maps, body.maps.flip(3))


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.floats(0.25, 0.8)] * 3),
    st.tuples(*[st.floats(-1.5, 1.5)] * 3),
    st.booleans(),
    st.integers(0, 1000),
)
def test_scanner_to_index_finds_a_bead(size_cm, center_cm, narrow, seed):
    """The bead's center on the grid maps to its voxel of the CT within half a voxel of the grid."""
    voxel = np.random.default_rng(seed).integers([3, 10, 10], [17, 30, 34])
    hounsfield = torch.full((20, 40, 44), -1000.0)
    hounsfield[1:19, 5:35, 5:39] = 0
    k, j, i = voxel
    hounsfield[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = 1500
    voxel_cm, needed_cm = (0.5, 0.3, 0.35), 8.0 if narrow else 22.0
    n_z, n_y, n_x = (int(np.ceil(needed_cm / size)) for size in size_cm)
    grid = VolumeGrid(2 * n_z, n_y, n_x, size_cm, center_cm)
    body = place_body(hounsfield, voxel_cm, grid, fit=True)
    assert (body.scale < 1) == narrow

    calcium = body.maps[1].double()
    index = np.array(
        [
            np.average(np.arange(n), weights=calcium.sum(axes))
            for n, axes in zip(grid.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
        ]
    )
    x, y, _ = grid.index_to_cm @ [index[2], index[1], 1]
    z = grid.slices_cm[0] + index[0] * size_cm[0]
    found = (body.scanner_to_index @ [x, y, z, 1])[:3]
    half = 0.5 * np.array(size_cm) / (np.array(voxel_cm) * body.scale)
    assert (np.abs(found - voxel) <= half).all()


def test_grid_without_the_axis_raises():
    with pytest.raises(ValueError, match="center_cm"):
        place_body(patient_on_a_table()[None], VOXEL_CM,
                   VolumeGrid(4, 8, 8, 0.5, center_cm=(0.0, 5.0, 0.0)))  # fmt: skip


def column_with_a_rod():
    """A column of 20 slices of 0.5 cm with a bone rod from 2 cm above its middle on."""
    volume = torch.full((24, 40, 40), -1000.0)
    volume[2:22, 8:32, 8:32] = 40
    volume[16:22, 14:17, 20:23] = 900
    return volume


@pytest.mark.parametrize("center_z_cm", [0.0, 7.0])
@pytest.mark.parametrize("n_z", [1, 3])
def test_the_middle_of_the_grid_is_chosen_in_the_body(n_z, center_z_cm):
    grid = VolumeGrid(n_z, 40, 40, 0.5, (center_z_cm, 0.0, 0.0))
    calcium = {}
    for middle_cm in (-4.0, 0.0, 1.0, 3.0):
        body = place_body(column_with_a_rod(), (0.5, 0.5, 0.5), grid, middle_cm=middle_cm)
        calcium[middle_cm] = body.maps[1].sum(0).max()
        found = body.scanner_to_index @ [0, 0, center_z_cm, 1]
        assert found[0] == pytest.approx(11.5 + middle_cm / 0.5)
    assert calcium[-4.0] == calcium[0.0] == calcium[1.0] == 0
    assert calcium[3.0] > 0.2


def test_a_volume_is_shifted():
    sizes = (0.5, 0.5, 0.5)
    first, other = (
        place_body(column_with_a_rod(), sizes, VolumeGrid(6, 40, 40, 0.5), middle_cm=middle_cm)
        for middle_cm in (0.0, 1.5)
    )
    torch.testing.assert_close(other.maps[:, :3], first.maps[:, 3:])
    assert other.maps[1, 3:].sum() > first.maps[1].sum() == 0


def test_the_middle_of_a_shrunk_body_is_that_of_the_patient():
    grid = VolumeGrid(1, 20, 20, 0.5)
    body = place_body(column_with_a_rod(), (0.5, 0.5, 0.5), grid, fit=True, middle_cm=3.0)
    assert body.scale < 0.9
    assert body.scanner_to_index[0, 3] == pytest.approx(11.5 + 6)
    assert body.maps[1].max() > 0.1


@pytest.mark.parametrize("middle_cm", [-5.6, 6.0, 300.0])
def test_a_grid_beside_the_body_is_refused(middle_cm):
    with pytest.raises(ValueError, match=rf"{middle_cm:g} cm.*-5\.0 to 5\.0 cm.*slice_cm"):
        place_body(
            column_with_a_rod(), (0.5, 0.5, 0.5), VolumeGrid(1, 40, 40, 0.5), middle_cm=middle_cm
        )
