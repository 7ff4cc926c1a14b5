"""The cone projector against exact line integrals, the fan beam, and across threads."""

from dataclasses import replace
from math import pi

import numba
import pytest
import torch
from support.cones import SMALL_CONE, SMALL_CONES, SMALL_VOLUME

from benchmarks.projectors_cone import PHANTOM, line_integrals
from pcctlearn.tomography.cone_projector import ConeBackprojector, ConeProjector
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.tomography.slice_projector import SliceProjector

BOTH = pytest.mark.parametrize("operator", [ConeProjector, ConeBackprojector])
CONES = pytest.mark.parametrize(("beam", "grid"), SMALL_CONES.values(), ids=SMALL_CONES)


# more columns, and more voxels along a side, than one block of the compiled loops
SEAMS = ConeBeam(3, 5, 37, 0.3, 10.0, 15.0), VolumeGrid(4, 19, 21, 0.3)
CUBES = VolumeGrid(200, 200, 220, 0.08)
BRICKS = VolumeGrid(180, 220, 200, (0.08, 0.07, 0.09), center_cm=(0.1, 0.2, -0.3))
OFFSETS = {"offset_cm": 0.5, "row_offset_cm": 1.0, "axis_offset_cm": 0.2, "start_rad": 0.3}


@pytest.mark.parametrize(
    ("beam", "grid"),
    [
        (ConeBeam(4, 128, 192, 0.207, 62.5, 109.7, arc_rad=4.2), CUBES),
        (ConeBeam(4, 100, 290, (0.2, 0.12), 40.0, 70.0, **OFFSETS), BRICKS),
    ],
    ids=["cubes", "bricks off center"],
)
def test_agrees_with_exact_line_integrals(beam, grid):
    torch.set_default_dtype(torch.float32)
    exact = line_integrals(beam, oversampling=2)
    error = ConeProjector(beam, grid) @ PHANTOM.volumes(grid)[0] - exact
    assert error.square().mean().sqrt() <= 0.004 * exact.square().mean().sqrt()


def test_the_plane_of_the_orbit_is_a_fan():
    scanner = {"source_to_axis_cm": 9.0, "source_to_detector_cm": 13.0, "arc_rad": 4.5}
    fan = FanBeam(6, 12, 0.7, **scanner)
    cone = ConeBeam(6, 3, 12, 0.7, **scanner)
    image = torch.randn(8, 8)
    volume = image.expand(5, -1, -1)
    expected = SliceProjector(fan, ImageGrid(8, 8, 0.5)) @ image
    torch.testing.assert_close(
        (ConeProjector(cone, VolumeGrid(5, 8, 8, 0.5)) @ volume)[:, 1], expected
    )


def test_a_tilted_ray_is_longer_by_its_obliquity():
    beam = ConeBeam(4, 9, 7, 0.5, 9.0, 13.0)
    y = ConeProjector(beam, VolumeGrid(40, 8, 8, 0.5)) @ torch.ones(40, 8, 8)
    expected = y[:, 4:5] * torch.from_numpy(beam.obliquity() / beam.obliquity()[4])
    torch.testing.assert_close(y, expected)


@CONES
def test_mirrored_in_the_plane_of_the_orbit(beam, grid):
    """Row and slice indices increase in the same direction."""
    mirrored_grid = replace(grid, center_cm=(-grid.center_cm[0], *grid.center_cm[1:]))
    mirrored = ConeProjector(replace(beam, row_offset_cm=-beam.row_offset_cm), mirrored_grid)
    x = torch.randn(grid.shape)
    torch.testing.assert_close(mirrored @ x.flip(0), (ConeProjector(beam, grid) @ x).flip(1))


def test_a_rotated_scanner_of_a_rotated_volume():
    beam = ConeBeam(8, 5, 9, 0.6, 8.0, 12.0, axis_offset_cm=0.1)
    A, x = ConeProjector(beam, VolumeGrid(4, 6, 6, 0.5)), torch.randn(4, 6, 6)
    y = A @ x
    turned = A @ x.rot90(1, (1, 2))  # counter-clockwise, because row 0 is on top
    torch.testing.assert_close(turned, y.roll(2, 0))


@pytest.mark.parametrize("scan", [*SMALL_CONES.values(), SEAMS], ids=[*SMALL_CONES, "seams"])
@BOTH
def test_same_bits_on_any_number_of_threads(operator, scan):
    A = operator(*scan)
    x, y = torch.randn(A.in_shape), torch.randn(A.out_shape)
    threads, results = numba.get_num_threads(), []
    for n in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(n)
        results.append((A @ x, A.T @ y))
    gap = (results[0][0] * y).sum() - (x * results[0][1]).sum()
    assert gap.abs() <= 1e-12 * results[0][0].norm() * y.norm()
    numba.set_num_threads(threads)
    assert all(torch.equal(one, many) for one, many in zip(*results, strict=True))


@BOTH
def test_batches_and_materials(operator):
    A = operator(SMALL_CONE, SMALL_VOLUME)
    x = torch.randn(2, 3, *A.in_shape)
    y = A @ x
    assert y.shape == (2, 3, *A.out_shape)
    assert torch.equal(y[1, 2], A @ x[1, 2])
    assert (A @ x[:0]).shape == (0, 3, *A.out_shape)


@BOTH
def test_float32_agrees_with_float64(operator):
    A = operator(SMALL_CONE, SMALL_VOLUME)
    x = torch.randn(A.in_shape)
    torch.testing.assert_close((A @ x.float()).double(), A @ x, rtol=1e-5, atol=1e-5)


def test_listed_angles_of_a_regular_scan_in_another_order():
    """Each listed view has the projection and weight of the regular scan."""
    order = [3, 0, 4, 1, 2]
    listed = replace(SMALL_CONE, view_angles_rad=SMALL_CONE.angles_rad[order])
    x = torch.randn(SMALL_VOLUME.shape)
    first, second = (ConeProjector(beam, SMALL_VOLUME) for beam in (listed, SMALL_CONE))
    torch.testing.assert_close(first @ x, (second @ x)[order])
    y = torch.randn(SMALL_CONE.shape)
    first, second = (ConeBackprojector(beam, SMALL_VOLUME) for beam in (listed, SMALL_CONE))
    torch.testing.assert_close(first @ y[order], second @ y)


@BOTH
def test_a_backend_for_another_device_raises_an_error(operator):
    with pytest.raises(ValueError, match=r"auto, numba, triton.* 'cuda'"):
        operator(SMALL_CONE, SMALL_VOLUME, backend="cuda")
    A = operator(SMALL_CONE, SMALL_VOLUME, backend="numba")
    meta = torch.empty(A.in_shape, device="meta")
    with pytest.raises(ValueError, match=r"backend=numba .* meta"):
        A.matvec(meta)


@pytest.mark.parametrize(("arc_rad", "fdk_tolerance"), [(2 * pi, 1e-5), (4.3, 1e-2)])
def test_agrees_with_rtk(arc_rad, fdk_tolerance):
    """RTK has the same Joseph and FDK weights, except for Parker weights of short scans."""
    pytest.importorskip("itk", reason="RTK is an option, requirements-bench.txt")
    from benchmarks.rtk_cone import RtkCone

    beam = ConeBeam(60, 64, 96, 0.37, 62.5, 109.7, arc_rad=arc_rad, offset_cm=0.1)
    torch.set_default_dtype(torch.float32)
    grid = VolumeGrid(56, 64, 64, 0.3)
    volume, rtk = PHANTOM.volumes(grid)[0], RtkCone(beam, grid)
    y, expected = ConeProjector(beam, grid) @ volume, rtk.forward(volume)
    assert (y - expected).norm() <= 1e-5 * expected.norm()
    inner = (slice(14, -14),) * 3  # projected onto the panel in every view
    x, expected = fbp(beam, grid) @ y, rtk.fdk(y)
    assert (x - expected)[inner].norm() <= fdk_tolerance * expected[inner].norm()
