"""Triton operators agree with those of numba, in Triton's interpreter."""

import sys
from dataclasses import replace

import pytest
import torch
from support.cones import COARSE_ROWS, FINE_ROWS, SMALL_CONE

from pcctlearn.testing import check_adjoint
from pcctlearn.tomography.cone_projector import ConeBackprojector, ConeProjector
from pcctlearn.tomography.grids import VolumeGrid

pytest.importorskip("triton", reason="Triton is an option, requirements-dev.txt")
TINY = VolumeGrid(2, 3, 3, (0.45, 0.6, 0.5), center_cm=(0.3, 0.1, -0.2))
OFFSETS = replace(SMALL_CONE, n_views=2, n_rows=3, n_columns=4, pixel_cm=(0.9, 1.3)), TINY
SCANS = {
    "offsets": OFFSETS,
    "fine rows": (
        replace(FINE_ROWS, n_views=1, n_columns=5), VolumeGrid(2, 2, 3, (0.9, 0.5, 0.5))
    ),
    "coarse rows": (
        replace(COARSE_ROWS, n_views=1, n_columns=5), VolumeGrid(12, 2, 3, (0.13, 0.5, 0.5))
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize("operator", [ConeProjector, ConeBackprojector])
@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_agrees_with_numba(operator, scan):
    cpu, gpu = (operator(*scan, backend=backend) for backend in ("numba", "triton"))
    x, y = torch.randn(cpu.in_shape), torch.randn(cpu.out_shape)
    torch.testing.assert_close(gpu @ x, cpu @ x)
    torch.testing.assert_close(gpu.T @ y, cpu.T @ y)
    # Triton computes positions in the operand's precision, numba in float64
    x, expected = x.float(), cpu @ x.float()
    assert (gpu @ x - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("operator", [ConeProjector, ConeBackprojector])
def test_adjoint_in_both_precisions(operator):
    beam = replace(OFFSETS[0], n_views=1, start_rad=0.75)  # with steep and shallow rays
    A = operator(beam, TINY, backend="triton")
    check_adjoint(A)
    check_adjoint(A.float(), torch.float32)


def test_lines_longer_than_a_block():
    """More rows and slices than one program has lanes."""
    beam = replace(OFFSETS[0], n_views=1, n_rows=70, n_columns=2, pixel_cm=(0.05, 2.0))
    grid = VolumeGrid(67, 2, 2, (0.04, 0.6, 0.6))
    for operator in (ConeProjector, ConeBackprojector):
        cpu, gpu = (operator(beam, grid, backend=backend) for backend in ("numba", "triton"))
        x, y = torch.randn(cpu.in_shape), torch.randn(cpu.out_shape)
        torch.testing.assert_close(gpu @ x, cpu @ x)
        torch.testing.assert_close(gpu.T @ y, cpu.T @ y)


def test_a_missing_triton_is_named_with_the_command_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "pcctlearn.tomography.kernels.cone_triton", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    A = ConeProjector(*OFFSETS, backend="triton")
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        A @ torch.zeros(A.in_shape)
