"""Operations that exceed the memory raise MemoryError before they allocate."""

import pytest
import torch
from support.cones import SMALL_CONE, SMALL_VOLUME

from pcctlearn.tomography import memory
from pcctlearn.tomography.cone_projector import ConeProjector
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.kernels.hat_interpolation_numba import margin_for
from pcctlearn.tomography.linear_operator import LinearOperator


class Grow(LinearOperator):
    """A map from one number to an array of terabytes."""

    def __init__(self) -> None:
        super().__init__((1,), (10**12,))

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("was run")


def test_too_large_a_result_raises_memory_error():
    with pytest.raises(MemoryError, match=r"Grow .* 8e\+03 GB for 1 images"):
        Grow() @ torch.ones(1)


def test_the_error_names_the_largest_batch_that_fits(monkeypatch):
    A = fbp(SMALL_CONE, SMALL_VOLUME)
    free = A.peak_bytes(7, 8) + 1
    monkeypatch.setattr(memory, "_UNCHECKED_BYTES", 0)
    monkeypatch.setattr(memory, "available_bytes", lambda device: free)
    assert (A @ torch.zeros(7, *A.in_shape)).shape == (7, *A.out_shape)
    with pytest.raises(MemoryError, match=r"8 images in torch\.float64.* 7 fit"):
        A @ torch.zeros(8, *A.in_shape)


@pytest.mark.parametrize("make", [ConeProjector, fbp, lambda *scan: ConeProjector(*scan).T])
def test_estimates_cover_results_and_copies(make):
    A = make(SMALL_CONE, SMALL_VOLUME)
    one, two = A.peak_bytes(1, 4), A.peak_bytes(2, 4)
    size_in, size_out = torch.empty(A.in_shape).numel(), torch.empty(A.out_shape).numel()
    assert one >= 4 * (size_in + 2 * size_out)
    assert two - one >= 4 * size_out
    assert (A + A).peak_bytes(1, 4) > one


def test_the_estimate_includes_margins_of_fine_rows():
    volume = VolumeGrid(4, 5, 5, (5.0, 0.5, 0.5))
    fine = ConeBeam(3, 24, 9, (0.02, 0.7), 6.0, 9.0)
    A = ConeProjector(fine, volume)
    assert A.T.peak_bytes(1, 4) > 3 * 9 * 2 * margin_for(A.coefficients.slope_range) * 4
