"""Arrays for the kernels keep the positions, masses and energies of object and scanner."""

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
import torch
from numba import njit

from pcctlearn.montecarlo.object.scene import TubeSpectrum, scene_of
from pcctlearn.montecarlo.photons_numba import walk
from pcctlearn.phantoms.ellipses import Ellipse
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.tomography.cone_projector import ConeProjector
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

GRID = VolumeGrid(30, 41, 50, (0.3, 0.26, 0.2), center_cm=(0.4, -0.3, 0.5))
SCANNER = ConeBeam(
    n_views=5,
    n_rows=12,
    n_columns=20,
    pixel_cm=(0.9, 1.1),
    source_to_axis_cm=40.0,
    source_to_detector_cm=70.0,
    offset_cm=0.8,
    row_offset_cm=0.35,
    start_rad=0.4,
    axis_offset_cm=0.15,
)
PHANTOM = EllipsoidPhantom(  # nothing is symmetric
    [
        Ellipse((0.5, -0.3, 0.4), (3.6, 4.2, 3.4), (1.0, 0.0), tilt_rad=0.3),
        Ellipse((1.9, 1.2, 1.0), (0.9, 0.7, 1.2), (0.2, 0.9), tilt_rad=0.8),
        Ellipse((-1.1, -2.0, -0.9), (0.8, 1.1, 0.7), (-0.7, 0.0)),
    ]
)
MATERIALS = ["water", "calcium"]
BEAM = TubeSpectrum(torch.arange(20.0, 61.0), torch.ones(41))


@njit
def sinogram_of(voxels, sources, directions):
    paths = np.empty((len(sources), 2))
    for n in range(len(sources)):
        x, y, z = sources[n]
        u, v, w = directions[n]
        path, _, _, _, _ = walk(voxels, x, y, z, u, v, w, 1e9, (0.0, 0.0))
        paths[n] = path
    return paths


@pytest.fixture(scope="module")
def maps():
    return PHANTOM.volumes(GRID, 3).clamp(min=0).double()


def test_traversal_agrees_with_projector_and_exact_line_integrals(maps):
    scene = scene_of(maps, GRID, MATERIALS, SCANNER, BEAM)
    sources, directions = SCANNER.rays()
    paths = sinogram_of(scene.voxels, sources.reshape(-1, 3), directions.reshape(-1, 3))
    walked = torch.tensor((paths * scene.voxels.unit_g_cm3).T).view(2, *SCANNER.shape)
    exact = PHANTOM.line_integrals(sources, directions)
    projected = ConeProjector(SCANNER, GRID) @ maps
    for material in range(2):
        walks, joseph = ((p - exact)[material].norm() for p in (walked, projected))
        assert walks < 1.5 * joseph  # the error of the coarse grid
        assert (walked - projected)[material].norm() < 1.5 * joseph
        for axis in (-1, -2):
            assert (walked.flip(axis) - exact)[material].norm() > 5 * joseph


def test_rebinned_voxels_keep_mass_and_center(maps):
    z, y, x = (np.arange(n, dtype=float) for n in GRID.shape)
    z = GRID.slices_cm
    y = GRID.center_cm[1] + ((GRID.n_y - 1) / 2 - y) * GRID.spacing_cm[1]
    x = GRID.center_cm[2] + (x - (GRID.n_x - 1) / 2) * GRID.spacing_cm[2]
    mass = maps.sum((1, 2, 3)).numpy() * np.prod(GRID.spacing_cm)
    weights = maps[0].numpy() / maps[0].numpy().sum()
    center = [(weights.sum(axes) * a).sum() for axes, a in (((0, 1), x), ((0, 2), y), ((1, 2), z))]
    for voxel_cm, shape in ((0.0, (30, 41, 50)), (0.6, (15, 21, 17)), (1.3, (8, 9, 9))):
        voxels = scene_of(maps, GRID, MATERIALS, SCANNER, BEAM, voxel_cm=voxel_cm).voxels
        assert voxels.density.shape == (*shape, 2)
        assert (voxels.size_cm <= max(voxel_cm, 0.3) + 1e-9).all()
        density = voxels.density * voxels.unit_g_cm3
        total = density.sum((0, 1, 2)) * voxels.size_cm.prod()
        np.testing.assert_allclose(
            total, mass, rtol=1e-4
        )  # densities are rounded to 1/65535 of the maximum
        share = density[..., 0] / density[..., 0].sum()
        for axis in range(3):
            at = np.arange(shape[2 - axis]) + 0.5
            at = voxels.lower_cm[axis] + at * voxels.size_cm[axis]
            others = tuple({0, 1, 2} - {2 - axis})
            assert (share.sum(others) * at).sum() == pytest.approx(center[axis], abs=2e-3)


def test_panel_agrees_with_the_geometry(maps):
    scene = scene_of(maps, GRID, MATERIALS, SCANNER, BEAM)
    pixels = SCANNER.pixels_cm()
    for view in range(SCANNER.n_views):
        panel = scene.panel(view)
        np.testing.assert_allclose(panel.source, SCANNER.sources_cm()[view])
        for row, column in ((0, 0), (3, 17), (11, 19)):
            a, b = panel.low + (np.array([column, row]) + 0.5) * panel.pixel
            position = panel.center + a * panel.along + b * panel.up
            np.testing.assert_allclose(position, pixels[view, row, column], atol=1e-9)
        size = panel.opening[1::2] - panel.opening[::2]
        np.testing.assert_allclose(size, [20 * 1.1, 12 * 0.9])
        np.testing.assert_allclose(panel.opening[::2], panel.low)


def test_coarse_pixels_cover_the_same_panel(maps):
    scene = scene_of(maps, GRID, MATERIALS, SCANNER, BEAM, pixel_cm=2.0)
    assert scene.tallied.shape[1:] == (5, 11)
    assert scene.tallied.pixel_cm == pytest.approx((12 * 0.9 / 5, 20 * 1.1 / 11))
    rows, columns = scene.tallied.rows_cm, scene.tallied.columns_cm
    assert rows.mean() == pytest.approx(SCANNER.rows_cm.mean())
    assert columns.mean() == pytest.approx(SCANNER.columns_cm.mean())
    panel = scene.panel(0)
    np.testing.assert_allclose(panel.opening[::2], panel.low)


def test_number_of_photons_follows_fluence_and_opening(maps):
    fluence = torch.linspace(0.0, 3.0, 41)
    scene = scene_of(maps, GRID, MATERIALS, SCANNER, replace(BEAM, fluence=fluence), pixel_cm=2.0)
    total = fluence.sum().item() * SCANNER.n_rows * SCANNER.n_columns
    assert scene.photons(scene.panel(0)) == pytest.approx(total)
    one_pixel = scene.panel(0, opening_cm=(-1.1, 0.0, 0.0, 0.9))
    assert scene.photons(one_pixel) == pytest.approx(fluence.sum().item())
    np.testing.assert_allclose(
        scene.energies.cumulative, fluence.cumsum(0) / fluence.sum(), rtol=1e-12
    )


def test_groups_are_counted_from_the_highest_energy():
    assert replace(BEAM, stride=3).groups_keV.tolist() == list(np.arange(21.0, 61.0, 3))
    assert torch.equal(BEAM.groups_keV, BEAM.energies_keV)
    assert TubeSpectrum(torch.tensor([60.0]), torch.ones(1)).groups_keV.tolist() == [60.0]


def test_majorant_is_never_exceeded(maps):
    scene = scene_of(maps, GRID, MATERIALS, SCANNER, BEAM)
    density = scene.voxels.density.reshape(-1, 2)
    for energy in (0, 38, 118, 300):
        largest = (density @ scene.tables.total[:, energy]).max()
        assert largest <= scene.energies.majorant[energy] < 1.02 * largest


@pytest.mark.parametrize(
    ("energies", "fluence", "stride", "message"),
    [
        ([20.0, 21.0, 23.0], [1.0, 1.0, 1.0], 1, "energies_keV .*1 to 2 keV"),
        ([22.0, 21.0, 20.0], [1.0, 1.0, 1.0], 1, "energies_keV"),
        ([20.0, 21.0], [1.0, 1.0], 0, "stride 0"),
        ([20.0], [1.0], 0, "stride 0"),
        ([20.0, nan], [1.0, 1.0], 1, "energies_keV"),
        ([4.0, 5.0], [1.0, 1.0], 1, "5 to 160 keV, got 4 to 5 keV"),
        ([159.0, 160.0], [1.0, 1.0], 1, "5 to 160 keV, got 159 to 160 keV"),
        ([20.0, 21.0], [1.0, -1.0], 1, "fluence"),
        ([20.0, 21.0], [0.0, 0.0], 1, "fluence"),
        ([20.0, 21.0], [1.0, nan], 1, "fluence"),
        ([20.0, 21.0], [1.0, inf], 1, "fluence"),
        ([20.0, 21.0], [1.0, 1.0, 1.0], 1, "fluence .* 2 energies"),
    ],
)
@pytest.mark.usefixtures("annotations_off")
def test_invalid_tube_spectrum_raises(energies, fluence, stride, message):
    with pytest.raises(ValueError, match=message):
        TubeSpectrum(torch.tensor(energies), torch.tensor(fluence), stride)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: maps - 0.01, "negative.*-0.01 g/cm³"),
        (lambda maps: maps.where(maps < 1, nan), "finite densities"),
        (lambda maps: maps.where(maps < 1, inf), "finite densities"),
        (lambda maps: 0 * maps, "finite densities"),
        (lambda maps: maps[:1], r"\(2, 30, 41, 50\).*got \(1, 30, 41, 50\)"),
        (lambda maps: maps[..., 1:], r"\(2, 30, 41, 50\).*got \(2, 30, 41, 49\)"),
        (lambda maps: maps[0], r"\(2, 30, 41, 50\).*got \(30, 41, 50\)"),
    ],
)
@pytest.mark.usefixtures("annotations_off")
def test_invalid_densities_raise(maps, change, message):
    with pytest.raises(ValueError, match=message):
        scene_of(change(maps), GRID, MATERIALS, SCANNER, BEAM)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"pixel_cm": 0.0}, "pixel_cm .* 0$"),
        ({"pixel_cm": -1.0}, "pixel_cm .* -1$"),
        ({"voxel_cm": nan}, "voxel_cm .* nan$"),
    ],
)
def test_invalid_sizes_raise(maps, size, message):
    with pytest.raises(ValueError, match=message):
        scene_of(maps, GRID, MATERIALS, SCANNER, BEAM, **size)


def test_unknown_material_raises(maps):
    with pytest.raises(ValueError, match="unobtainium"):
        scene_of(maps, GRID, ["water", "unobtainium"], SCANNER, BEAM)
