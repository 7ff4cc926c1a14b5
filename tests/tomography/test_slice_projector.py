"""The projectors against exact line integrals, against each other, and across threads."""

from dataclasses import replace
from math import pi

import numba
import pytest
import torch
from support.truth import (
    ELLIPSES,
    SMALL,
    SMALL_FAN,
    SMALL_PARALLEL,
    SMALL_SHORT_SCAN,
    image,
    sinogram,
)

from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.tomography.slice_projector import SliceBackprojector, SliceProjector

GRID = ImageGrid(256, 256, 0.15)
IMAGE = image(GRID, ELLIPSES)
BOTH = pytest.mark.parametrize("operator", [SliceProjector, SliceBackprojector])
BEAMS = pytest.mark.parametrize("beam", [SMALL_PARALLEL, SMALL_FAN, SMALL_SHORT_SCAN])


@pytest.mark.parametrize(
    "beam",
    [
        ParallelBeam(180, 256, 0.15),
        ParallelBeam(90, 300, 0.15, arc_rad=2 * pi, offset_cm=0.04),
        FanBeam(180, 288, 0.3, 60.0, 120.0),
        FanBeam(180, 300, 0.2, 50.0, 70.0, arc_rad=1.5 * pi, offset_cm=0.05),
    ],
)
def test_agrees_with_exact_line_integrals(beam):
    exact = sinogram(beam, ELLIPSES)
    error = SliceProjector(beam, GRID, "numba") @ IMAGE - exact
    assert error.square().mean().sqrt() <= 0.0025 * exact.square().mean().sqrt()


@BEAMS
@BOTH
def test_compiled_products_are_those_of_the_matrix(operator, beam):
    matrix, compiled = (operator(beam, SMALL, backend) for backend in ("matrix", "numba"))
    assert compiled.is_matrix_free
    assert not matrix.is_matrix_free
    x, y = torch.randn(3, *matrix.in_shape), torch.randn(3, *matrix.out_shape)
    torch.testing.assert_close(compiled @ x, matrix @ x)
    torch.testing.assert_close(compiled.T @ y, matrix.T @ y)


@BEAMS
@BOTH
def test_rows_are_sorted_and_unique(operator, beam):
    A = operator(beam, SMALL)
    shape = A.interpolation.shape
    for name, size in (("matrix", shape), ("transposed", shape[::-1])):
        parts = (A.get_buffer(f"{name}_{part}") for part in ("starts", "indices", "weights"))
        torch.sparse_csr_tensor(*parts, size=size, check_invariants=True)


@pytest.mark.parametrize("backend", ["numba", "matrix"])
@BOTH
def test_same_bits_on_any_number_of_threads(operator, backend):
    A = operator(ParallelBeam(20, 40, 0.1), ImageGrid(32, 36, 0.1), backend)
    x, y = torch.randn(3, *A.in_shape), torch.randn(3, *A.out_shape)
    threads = numba.get_num_threads(), torch.get_num_threads()
    results = []
    for n in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(n)
        torch.set_num_threads(n)
        results.append((A @ x, A.T @ y))
    numba.set_num_threads(threads[0])
    torch.set_num_threads(threads[1])
    assert all(torch.equal(one, many) for one, many in zip(*results, strict=True))


@BOTH
def test_a_fan_with_a_distant_source_is_a_parallel_beam(operator):
    parallel = replace(SMALL_PARALLEL, arc_rad=2 * pi)
    fan = FanBeam(5, 11, 0.45, 1e9, 1e9, offset_cm=0.1)
    x = torch.randn(operator(parallel, SMALL).in_shape)
    torch.testing.assert_close(
        operator(fan, SMALL) @ x, operator(parallel, SMALL) @ x, rtol=1e-6, atol=1e-6
    )


def test_half_a_turn_mirrors_the_sinogram():
    beam = replace(SMALL_PARALLEL, n_views=10, arc_rad=2 * pi, offset_cm=0.0)
    y = SliceProjector(beam, SMALL) @ torch.randn(SMALL.shape)
    torch.testing.assert_close(y[5:], y[:5].flip(-1))


def test_autocast_does_not_reduce_the_precision():
    A, x = (
        SliceProjector(SMALL_PARALLEL, SMALL).float(),
        torch.randn(SMALL.shape, dtype=torch.float32),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(A @ x, A.float() @ x)


def test_weights_have_the_default_dtype():
    torch.set_default_dtype(torch.float32)
    A = SliceProjector(SMALL_PARALLEL, SMALL)
    assert A.matrix_weights.dtype == A.transposed_weights.dtype == torch.float32
    assert A.matrix_indices.dtype == torch.int32
