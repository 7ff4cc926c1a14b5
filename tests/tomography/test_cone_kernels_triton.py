"""The kernels for a GPU are those of the CPU; here they run in Triton's interpreter."""

import sys
from dataclasses import replace

import pytest
import torch
from cones import COARSE_ROWS, FINE_ROWS, SMALL_CONE

from pcctlearn.testing import check_adjoint
from pcctlearn.tomography.cone_projector import ConeBackprojector, ConeProjector
from pcctlearn.tomography.fdk import fdk
from pcctlearn.tomography.grids import VolumeGrid

pytest.importorskip("triton", reason="Triton is an option, requirements-dev.txt")
TINY = VolumeGrid(2, 3, 3, (0.45, 0.6, 0.5), center_cm=(0.3, 0.1, -0.2))
BEAMS = {
    "offsets": replace(
        SMALL_CONE, n_views=2, n_rows=3, n_columns=4, pixel_cm=(0.9, 1.3), volume=TINY
    ),
    "fine rows": replace(
        FINE_ROWS, n_views=1, n_columns=5, volume=VolumeGrid(2, 2, 3, (0.9, 0.5, 0.5))
    ),
    "coarse rows": replace(
        COARSE_ROWS, n_views=1, n_columns=5, volume=VolumeGrid(12, 2, 3, (0.13, 0.5, 0.5))
    ),
}


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize("operator", [ConeProjector, ConeBackprojector])
@pytest.mark.parametrize("beam", BEAMS.values(), ids=BEAMS)
def test_the_same_numbers_as_on_the_cpu(operator, beam):
    cpu, gpu = operator(beam, kernels="numba"), operator(beam, kernels="triton")
    x, y = torch.randn(cpu.in_shape), torch.randn(cpu.out_shape)
    torch.testing.assert_close(gpu @ x, cpu @ x)
    torch.testing.assert_close(gpu.T @ y, cpu.T @ y)
    # positions are in the operand's precision here, and always in float64 there
    x, expected = x.float(), cpu @ x.float()
    assert (gpu @ x - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("operator", [ConeProjector, fdk])
def test_adjoint_in_both_precisions(operator):
    A = operator(BEAMS["offsets"], kernels="triton")
    check_adjoint(A)
    check_adjoint(A.float(), torch.float32)


def test_a_block_of_lanes_is_no_limit():
    """More rows and slices than one program has lanes."""
    beam = replace(BEAMS["offsets"], n_views=1, n_rows=70, n_columns=2, pixel_cm=(0.05, 2.0),
                   volume=VolumeGrid(67, 2, 2, (0.04, 0.6, 0.6)))  # fmt: skip
    for operator in (ConeProjector, ConeBackprojector):
        cpu, gpu = operator(beam, kernels="numba"), operator(beam, kernels="triton")
        x, y = torch.randn(cpu.in_shape), torch.randn(cpu.out_shape)
        torch.testing.assert_close(gpu @ x, cpu @ x)
        torch.testing.assert_close(gpu.T @ y, cpu.T @ y)


def test_without_triton_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "pcctlearn.tomography.cone_kernels_triton", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    A = ConeProjector(BEAMS["offsets"], kernels="triton")
    with pytest.raises(ModuleNotFoundError, match="kernels=triton need triton: pip install triton"):
        A @ torch.zeros(A.in_shape)
