"""All linear operators of tomography are linear, have an adjoint and are differentiable."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from support.cones import (
    FINE_ROWS,
    SMALL_CONE,
    SMALL_CONES,
    SMALL_SHORT_CONE,
    SMALL_VOLUME,
    THICK_SLICES,
)
from support.truth import SMALL, SMALL_FAN, SMALL_PARALLEL, SMALL_SHORT_SCAN

from pcctlearn.testing import check_adjoint, check_gradient, check_linear
from pcctlearn.tomography.cone_projector import ConeBackprojector, ConeProjector
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.filters import FILTERS, RampFilter
from pcctlearn.tomography.linear_operator import Diagonal, LinearOperator
from pcctlearn.tomography.slice_projector import SliceBackprojector, SliceProjector
from pcctlearn.tomography.truncation import EdgeExtension


class Subsample(LinearOperator):
    """Keep every second column; its adjoint is derived."""

    def __init__(self, n_views: int, n_columns: int) -> None:
        super().__init__((n_views, n_columns), (n_views, (n_columns + 1) // 2))

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., ::2]


OPERATORS = {
    "projector, parallel": lambda: SliceProjector(SMALL_PARALLEL, SMALL),
    "projector, fan": lambda: SliceProjector(SMALL_FAN, SMALL),
    "projector, parallel, no matrix": lambda: SliceProjector(SMALL_PARALLEL, SMALL, "numba"),
    "projector, fan, no matrix": lambda: SliceProjector(SMALL_FAN, SMALL, "numba"),
    "backprojector, parallel": lambda: SliceBackprojector(SMALL_PARALLEL, SMALL),
    "backprojector, fan": lambda: SliceBackprojector(SMALL_FAN, SMALL),
    "backprojector, no matrix": lambda: SliceBackprojector(SMALL_FAN, SMALL, "numba"),
    **{f"ramp, {name}": lambda f=name: RampFilter((5, 11), 0.45, f) for name in FILTERS},
    **{f"cone projector, {n}": lambda b=b: ConeProjector(*b) for n, b in SMALL_CONES.items()},
    **{
        f"cone backprojector, {n}": lambda b=b: ConeBackprojector(*b)
        for n, b in SMALL_CONES.items()
    },
    "ramp, rows": lambda: RampFilter((3, 4, 11), 0.45),
    "ramp, longer rows": lambda: RampFilter((5, 11), 0.45, "hann", n_before=3, n_after=20),
    "extension": lambda: EdgeExtension((3, 4, 5), 3, 0),
    "extension, both sides": lambda: EdgeExtension((4, 5), 2, 4),
    "fbp, truncated": lambda: fbp(replace(SMALL_FAN, n_columns=5), SMALL, truncation="cosine"),
    "diagonal, broadcast": lambda: Diagonal(torch.rand(4, 1), (3, 4, 5)),
    "fdk": lambda: fbp(SMALL_CONE, SMALL_VOLUME),
    "fdk, short scan": lambda: fbp(SMALL_SHORT_CONE, SMALL_VOLUME, "hann"),
    "fdk, truncated": lambda: fbp(
        replace(FINE_ROWS, n_columns=4), THICK_SLICES, truncation="cosine"
    ),
    "diagonal": lambda: Diagonal(torch.rand(5, 11)),
    "fbp, parallel": lambda: fbp(SMALL_PARALLEL, SMALL),
    "fbp, fan": lambda: fbp(SMALL_FAN, SMALL, "hann"),
    "fbp, short scan": lambda: fbp(SMALL_SHORT_SCAN, SMALL),
    "derived": lambda: Subsample(5, 11),
    "derived, transposed": lambda: Subsample(5, 11).T,
    "composition": lambda: Subsample(5, 11) @ SliceProjector(SMALL_PARALLEL, SMALL),
    "sum": lambda: SliceProjector(SMALL_PARALLEL, SMALL) + fbp(SMALL_PARALLEL, SMALL).T,
    "normal": lambda: SliceProjector(SMALL_FAN, SMALL).T @ SliceProjector(SMALL_FAN, SMALL),
}


@pytest.fixture(params=OPERATORS)
def A(request):
    return OPERATORS[request.param]()


def test_adjoint(A):
    check_adjoint(A)
    check_adjoint(A.T)


def test_adjoint_in_single_precision(A):
    check_adjoint(A.float(), torch.float32)


def test_linear(A):
    check_linear(A)


def test_gradient(A):
    check_gradient(A)


def test_two_calls_before_one_backward(A):
    x = torch.randn(2, *A.in_shape, requires_grad=True)
    first, second = A @ x[0], A @ x[1]
    (first.sum() + 3 * second.sum()).backward()
    once = A.T @ torch.ones(A.out_shape)
    torch.testing.assert_close(x.grad, torch.stack([once, 3 * once]))


def test_input_of_any_strides(A):
    reverse = torch.arange(len(A.in_shape), -1, -1).tolist()
    strided = torch.randn(*reversed(A.in_shape), 3).permute(reverse)
    torch.testing.assert_close(A @ strided, A @ strided.contiguous())


def test_behaves_as_a_module(A):
    x = torch.randn(A.in_shape)
    for twin in (copy.deepcopy(A), pickle.loads(pickle.dumps(A))):
        torch.testing.assert_close(twin @ x, A @ x)
    assert not A.state_dict()
    assert all(b.dtype == torch.float32 for b in A.float().buffers() if b.is_floating_point())


def test_torch_func_grad_is_the_adjoint(A):
    x = torch.randn(A.in_shape)
    gradient = torch.func.grad(lambda x: (A @ x).sum())(x)
    torch.testing.assert_close(gradient, A.T @ torch.ones(A.out_shape))


def test_wrong_operands_raise_an_error():
    A = SliceProjector(SMALL_PARALLEL, SMALL)
    with pytest.raises(ValueError, match=r"SliceProjector \(6, 7\) → \(5, 11\) .*\(7, 6\)"):
        A @ torch.zeros(7, 6)
    with pytest.raises(TypeError, match=r"torch\.int64"):
        A @ torch.zeros(6, 7, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"float32 or float64.* torch\.float16"):
        A @ torch.zeros(6, 7, dtype=torch.float16)
    with pytest.raises(TypeError, match=r"float64 weights.* torch\.float32"):
        A @ torch.zeros(6, 7, dtype=torch.float32)
    with pytest.raises(ValueError, match="cannot apply"):
        A @ A
    with pytest.raises(ValueError, match="cannot add"):
        A + A.T


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_error_counts_nan_and_infinite_values(A, bad):
    x = torch.ones(2, *A.in_shape)
    x.view(-1)[[0, -1]] = bad
    with pytest.raises(ValueError, match=rf"2 of {x.numel()} values"):
        A @ x


def test_a_sum_that_overflows_is_no_error():
    A = Diagonal(torch.ones(3, dtype=torch.float32) / 2)
    x = torch.full((3,), 3e38, dtype=torch.float32)
    torch.testing.assert_close(A @ x, x / 2)


def test_repr_shows_the_composition_and_the_shapes():
    A = SliceProjector(SMALL_PARALLEL, SMALL)
    assert repr(A.T @ A) == "(SliceProjector.T @ SliceProjector) (6, 7) → (6, 7)"
    assert repr(A.T.T + A) == "(SliceProjector + SliceProjector) (6, 7) → (5, 11)"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", [name for name in OPERATORS if "no matrix" not in name])
def test_gpu_agrees_with_cpu(name, dtype):
    A = OPERATORS[name]().to(dtype)
    x = torch.randn(2, 3, *A.in_shape, dtype=dtype)
    y = torch.randn(2, 3, *A.out_shape, dtype=dtype)
    forward, back = A @ x, A.T @ y
    A = A.cuda()
    # positions along a line of a few hundred samples lose two to four digits
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for on_gpu, on_cpu in ((A @ x.cuda(), forward), (A.T @ y.cuda(), back)):
        assert (on_gpu.cpu() - on_cpu).norm() <= tolerance * on_cpu.norm()
