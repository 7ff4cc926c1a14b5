"""Solutions and stopping rules of iterative reconstruction, image by image."""

from math import prod

import pytest
import torch
from support.truth import ELLIPSES, image

from pcctlearn.testing import check_adjoint, check_gradient, check_linear
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.tomography.iterative.cgls import cgls
from pcctlearn.tomography.iterative.fista_tv import fista_tv, squared_norm
from pcctlearn.tomography.iterative.sirt import os_sart, sirt
from pcctlearn.tomography.iterative.total_variation import Gradient, total_variation_prox
from pcctlearn.tomography.linear_operator import Diagonal, LinearOperator
from pcctlearn.tomography.slice_projector import SliceProjector

GRID = ImageGrid(32, 32, 1.2)
FAN = FanBeam(48, 48, 2.4, 60.0, 120.0)


class Matrix(LinearOperator):
    """A dense matrix from the voxels of an image to rays on one axis."""

    def __init__(self, matrix, in_shape):
        super().__init__(in_shape, (len(matrix),))
        self.register_buffer("matrix", matrix)

    def matvec(self, x):
        return x.flatten(x.ndim - len(self.in_shape)) @ self.matrix.mT

    def rmatvec(self, y):
        return (y @ self.matrix).unflatten(-1, self.in_shape)


class Views(LinearOperator):
    """Every n-th view."""

    def __init__(self, shape, first, every):
        views, columns = shape
        super().__init__(shape, (len(range(first, views, every)), columns))
        self.first, self.every = first, every

    def matvec(self, x):
        return x[..., self.first :: self.every, :]


def positive(n_rays=20, in_shape=(3, 4)):
    n_voxels = prod(in_shape)
    return Matrix(torch.rand(n_rays, n_voxels) + 3 * torch.eye(n_rays, n_voxels), in_shape)


def least_squares(A, y, weights=1.0):
    w = torch.as_tensor(weights).sqrt() * torch.ones(A.out_shape)
    return (w * y @ torch.linalg.pinv(w[:, None] * A.matrix).mT).unflatten(-1, A.in_shape)


def split(A, y, n):
    keep = [Views(A.out_shape, first, n) for first in range(n)]
    return [K @ A for K in keep], [K @ y for K in keep]


def total_variation(x, spacing_cm=None):
    return (Gradient(tuple(x.shape), spacing_cm) @ x).norm(dim=0).sum()


@pytest.fixture
def scan():
    """A phantom in a fan beam, without noise and with 3 % noise."""
    A, x = SliceProjector(FAN, GRID), image(GRID, ELLIPSES)
    y = A @ x
    noise = torch.randn(y.shape)
    return A, x, y, y + 0.03 * y.norm() / noise.norm() * noise


SOLVERS = {
    "sirt": sirt,
    "sirt, relaxed and nonnegative": lambda A, y, **options: sirt(
        A, y, relaxation=1.7, nonnegative=True, **options
    ),
    "os_sart": lambda A, y, **options: os_sart([A, A], [y, y], **options),
    "cgls": cgls,
    "cgls, damped": lambda A, y, **options: cgls(A, y, damping=0.5, **options),
    "fista_tv": lambda A, y, **options: fista_tv(
        A, y, 0.3, inner_iterations=5, **{"tolerance": 0.0} | options
    ),
}
EVERY_SOLVER = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)


def test_cgls_is_least_squares():
    A, y = Matrix(torch.randn(20, 12), (3, 4)), torch.randn(2, 20)
    torch.testing.assert_close(cgls(A, y, max_iterations=12).x, least_squares(A, y))


def test_damped_cgls_is_tikhonov_from_any_start():
    A, y = Matrix(torch.randn(8, 12), (3, 4)), torch.randn(8)
    expected = torch.linalg.solve(A.matrix.mT @ A.matrix + 0.7 * torch.eye(12), A.matrix.mT @ y)
    for start in (None, torch.randn(3, 4)):
        x = cgls(A, y, damping=0.7, start=start, max_iterations=14).x
        torch.testing.assert_close(x.flatten(), expected)


def test_cgls_stays_at_the_solution():
    """Steps along rounding errors of Aᵀr would grow."""
    A, y = Matrix(torch.rand(20, 12), (3, 4)), torch.rand(30, 20)
    torch.testing.assert_close(cgls(A, y, max_iterations=300).x, least_squares(A, y))


def test_weighted_rays_are_a_diagonal_operator():
    A, y, w = Matrix(torch.randn(20, 12), (3, 4)), torch.randn(20), torch.rand(20) + 0.1
    x = cgls(Diagonal(w) @ A, w * y, max_iterations=14).x
    torch.testing.assert_close(x, least_squares(A, y, w**2))


def test_cgls_residual_is_that_of_its_image():
    A, y = Matrix(torch.randn(20, 12), (3, 4)), torch.randn(20)
    result = cgls(A, y, start=torch.randn(3, 4), max_iterations=5)
    assert result.n_iterations == 5
    assert result.residuals[-1] == pytest.approx(((A @ result.x - y).norm() / y.norm()).item())
    assert all(a >= b for a, b in zip(result.residuals, result.residuals[1:], strict=False))


def test_sirt_is_weighted_least_squares():
    A, y = positive(), torch.randn(2, 20)
    R = 1 / A.matrix.sum(1)
    x = sirt(A, y, relaxation=1.9, max_iterations=500).x
    torch.testing.assert_close(x, least_squares(A, y, R))


@pytest.mark.parametrize("relaxation", [0.3, 1.0, 1.99])
def test_the_weighted_residual_of_sirt_never_increases(relaxation, scan):
    A, _, _, y = scan
    sums = A @ torch.ones(A.in_shape)
    R = torch.where(sums > 0, 1 / sums, 0)
    x, distances = torch.zeros(A.in_shape), []
    for _ in range(10):
        x = sirt(A, y, start=x, relaxation=relaxation, max_iterations=1).x
        distances.append((R * (A @ x - y) ** 2).sum())
    assert (torch.stack(distances).diff() < 0).all()


def test_sirt_residuals_fall(scan):
    A, _, _, y = scan
    assert (torch.tensor(sirt(A, y, max_iterations=50).residuals).diff() < 0).all()


def test_a_second_run_continues_from_the_first():
    A, y = positive(), torch.rand(20)
    first = sirt(A, y, max_iterations=3).x
    torch.testing.assert_close(
        sirt(A, y, start=first, max_iterations=4).x, sirt(A, y, max_iterations=7).x
    )


def test_os_sart_with_one_subset_is_sirt(scan):
    A, _, _, y = scan
    options = {"relaxation": 0.8, "nonnegative": True, "max_iterations": 6}
    one, all_rays = os_sart([A], [y], **options), sirt(A, y, **options)
    assert torch.equal(one.x, all_rays.x)
    assert one.residuals == pytest.approx([1.0, *all_rays.residuals[:-1]])


def test_subsets_need_fewer_passes(scan):
    A, _, y, _ = scan
    goal = 0.02
    alone = sirt(A, y, noise_level=goal, max_iterations=120)
    together = os_sart(*split(A, y, 8), noise_level=goal, max_iterations=120)
    assert alone.converged
    assert together.converged
    assert (A @ together.x - y).norm() <= goal * y.norm()
    assert 5 * together.n_iterations < alone.n_iterations


def test_voxels_without_rays_keep_their_start():
    matrix = torch.rand(6, 4)
    matrix[2], matrix[:, 1] = 0, 0
    A, y = Matrix(matrix, (2, 2)), torch.rand(6)
    start = torch.rand(2, 2)
    results = [
        sirt(A, y, start=start, max_iterations=50),
        os_sart([A, A], [y, y], start=start, max_iterations=50),
        cgls(A, y, start=start, max_iterations=50),
    ]
    for result in results:
        assert result.x.isfinite().all()
        assert result.x[0, 1] == start[0, 1]


def test_rays_beside_the_image_have_no_effect():
    A = SliceProjector(FanBeam(12, 40, 2.0, 20.0, 40.0), ImageGrid(8, 8, 1.0))
    assert ((A @ torch.ones(8, 8)) == 0).any()
    x = torch.rand(8, 8)
    result = sirt(A, A @ x, max_iterations=200)
    assert result.x.isfinite().all()
    assert result.residuals[-1] < 0.01


@pytest.mark.parametrize("shape", [(5, 4), (1, 6), (3, 2, 4)])
def test_gradient_is_a_linear_operator(shape):
    D = Gradient(shape, [0.5, 2.0, 0.3][: len(shape)])
    for law in (check_adjoint, check_linear, check_gradient):
        law(D)
    assert squared_norm(D, n_iterations=50) <= D.squared_norm_bound
    slope = 3.0 * 0.5 * torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    expected = torch.zeros(D.out_shape)
    expected[0, :-1] = 3.0
    torch.testing.assert_close(D @ slope, expected)


def test_squared_norm_is_the_largest_eigenvalue():
    matrix = torch.randn(20, 12)
    estimate = squared_norm(Matrix(matrix, (3, 4)), n_iterations=300)
    torch.testing.assert_close(estimate, torch.linalg.matrix_norm(matrix, 2) ** 2)
    assert squared_norm(Matrix(torch.zeros(20, 12), (3, 4))) == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_total_variation_reduces_a_step_by_the_known_amount(axis):
    """Each level moves towards the other by strength / its length."""
    h, strength = 0.5, torch.tensor(0.3)
    step = torch.cat([torch.zeros(4), torch.ones(6)])
    expected = torch.cat([torch.full((4,), 0.3 / h / 4), torch.full((6,), 1 - 0.3 / h / 6)])
    shape = [1, 1, 1]
    shape[axis] = 10
    gradient = Gradient(tuple(shape), [h] * 3)
    x, _ = total_variation_prox(gradient, step.reshape(shape), strength, n_iterations=400)
    torch.testing.assert_close(x.flatten(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("shape", [(9, 8), (4, 5, 6)])
def test_prox_is_optimal(shape, nonnegative):
    """|p| ≤ strength and ⟨p, ∇x⟩ = strength · TV(x), for x = image − ∇ᵀp."""
    D, noisy, strength = Gradient(shape, [0.5, 1.0, 2.0][: len(shape)]), torch.randn(2, *shape), 0.4
    strengths = torch.tensor([strength, 0.0])
    x, p = total_variation_prox(D, noisy, strengths, nonnegative=nonnegative, n_iterations=500)
    axis = -len(shape) - 1
    assert (p.norm(dim=axis).amax(tuple(range(1, len(shape) + 1))) <= strengths + 1e-12).all()
    free = noisy - D.T @ p
    torch.testing.assert_close(x, free.clamp(min=0) if nonnegative else free)
    slopes = D @ x[0]
    torch.testing.assert_close(
        (p[0] * slopes).sum(), strength * slopes.norm(dim=0).sum(), rtol=1e-4, atol=0
    )


def test_fista_without_strength_is_least_squares():
    A, y = Matrix(torch.randn(30, 12), (3, 4)), torch.randn(2, 30)
    x = fista_tv(A, y, 0.0, inner_iterations=1, max_iterations=300, tolerance=1e-10).x
    torch.testing.assert_close(x, least_squares(A, y))


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 3)])
def test_fista_finds_the_minimum(shape):
    """⟨g, x⟩ = strength · TV(x) and ⟨g, u⟩ ≤ strength · TV(u) for every u, with g = Aᵀ(y − A x)."""
    A, y, strength = positive(30, shape), torch.randn(30), 0.3
    spacing_cm = [0.5, 2.0, 1.0][: len(shape)]
    options = {"inner_iterations": 10, "max_iterations": 150, "tolerance": 1e-6}
    x = fista_tv(A, y, strength, spacing_cm=spacing_cm, **options).x
    g = A.T @ (y - A @ x)
    pull = strength * total_variation(x, spacing_cm)
    torch.testing.assert_close((g * x).sum(), pull, rtol=1e-3, atol=0)
    for u in torch.randn(20, *shape):
        assert (g * u).sum() <= strength * total_variation(u, spacing_cm)


def test_fista_keeps_the_sign_and_its_optimum():
    A, y = positive(30, (4, 5)), torch.randn(30)
    options = {"inner_iterations": 1, "max_iterations": 200, "tolerance": 1e-9}
    x = fista_tv(A, y, 0.0, nonnegative=True, **options).x
    g = A.T @ (y - A @ x)
    assert (x == 0).any()
    assert (x >= 0).all()
    assert (g[x == 0] <= 1e-6).all()
    assert g[x > 0].abs().max() < 1e-6


def test_total_variation_has_a_smaller_error_than_the_best_iteration(scan):
    A, truth, _, y = scan

    def error(x):
        return ((x - truth).norm() / truth.norm()).item()

    best = min(error(cgls(A, y, max_iterations=n).x) for n in range(1, 11))
    result = fista_tv(A, y, 0.3, nonnegative=True, tolerance=1e-3)
    assert result.converged
    assert error(result.x) < 0.5 * best


def test_a_strength_per_image():
    A, y = positive(), torch.randn(2, 3, 20)
    strengths = torch.tensor([0.0, 0.2, 1.0])
    together = fista_tv(A, y, strengths, tolerance=0.0, max_iterations=8).x
    alone = [
        fista_tv(A, y[:, i], s, tolerance=0.0, max_iterations=8).x for i, s in enumerate(strengths)
    ]
    torch.testing.assert_close(together, torch.stack(alone, 1))


@EVERY_SOLVER
def test_images_of_a_batch_are_independent(solve):
    A, scale = positive(), torch.tensor([[1.0, 1e-6], [0.0, 1e3]])
    y, start = (torch.rand(2, 2, *axes) for axes in (A.out_shape, A.in_shape))
    y, start = y * scale[..., None], start * scale[..., None, None]
    for options in ({}, {"tolerance": 0.02}, {"noise_level": 0.25}):
        together = solve(A, y, start=start, max_iterations=6, **options)
        for i in range(2):
            for j in range(2):
                alone = solve(A, y[i, j], start=start[i, j], max_iterations=6, **options)
                assert (together.x[i, j] - alone.x).norm() <= 1e-9 * alone.x.norm()
                assert together.converged[i, j] == alone.converged


@EVERY_SOLVER
def test_stops_when_the_change_is_small(solve):
    A, y = positive(), torch.rand(20)
    result = solve(A, y, tolerance=0.03, max_iterations=200)
    n = result.n_iterations
    assert result.converged
    assert 2 < n < 200
    x = [solve(A, y, max_iterations=k).x for k in range(1, n + 1)]
    torch.testing.assert_close(result.x, x[-1])
    changes = [(a - b).norm() / a.norm() for a, b in zip(x[1:], x, strict=False)]
    assert changes[-1] <= 0.03
    assert all(change > 0.03 for change in changes[:-1])


@EVERY_SOLVER
def test_stops_when_the_noise_is_reached(solve):
    A = positive()
    y = A @ torch.rand(3, 4) + 0.1 * torch.randn(20)
    residuals = solve(A, y, max_iterations=12).residuals
    level = residuals[5] * 1.0001
    result = solve(A, y, noise_level=level, max_iterations=12)
    assert result.converged
    assert result.residuals == residuals[: result.n_iterations]
    assert result.residuals[-1] <= level
    assert all(residual > level for residual in result.residuals[:-1])
    assert not solve(A, y, noise_level=1e-3, max_iterations=12).converged


@EVERY_SOLVER
def test_zero_data_give_a_zero_image(solve):
    result = solve(positive(), torch.zeros(20), tolerance=0.1, max_iterations=9)
    assert result.converged
    assert result.residuals == [0.0]
    assert (result.x == 0).all()


@EVERY_SOLVER
def test_in_single_precision(solve):
    A, y = positive(), torch.rand(2, 20)
    expected = solve(A, y, max_iterations=4).x
    result = solve(A.float(), y.float(), max_iterations=4).x
    assert result.dtype == torch.float32
    assert (result - expected).norm() <= 1e-3 * expected.norm()


@EVERY_SOLVER
def test_differentiable_in_data_and_start(solve):
    A = positive(5, (2, 2))
    y = (A @ torch.rand(2, 2) + 0.1).requires_grad_()
    start = torch.rand(2, 2, requires_grad=True)

    def reconstruct(y, start):
        return solve(A, y, start=start, max_iterations=2).x

    assert torch.autograd.gradcheck(reconstruct, (y, start))


def test_progress_is_shown_on_request_only(capsys):
    A, y = positive(), torch.rand(20)
    cgls(A, y, max_iterations=2)
    assert capsys.readouterr() == ("", "")
    cgls(A, y, max_iterations=2, progress=True)
    shown = capsys.readouterr().out
    assert "CGLS" in shown
    assert "2/2" in shown
    assert "relative residual" in shown


@EVERY_SOLVER
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iterations": 0}, "max_iterations .* 0"),
        ({"tolerance": -1e-3}, r"tolerance .* -0\.001"),
        ({"noise_level": 0.0}, r"noise_level .* 0\.0"),
        ({"start": torch.zeros(4, 3)}, r"start .*\(3, 4\), got \(4, 3\)"),
    ],
)
def test_impossible_options_raise_an_error(solve, options, message):
    with pytest.raises(ValueError, match=message):
        solve(positive(), torch.rand(20), **options)


@EVERY_SOLVER
def test_impossible_data_raise_an_error(solve):
    A, y = positive(), torch.rand(2, 20)
    with pytest.raises(ValueError, match=r"\(20,\), got .*\(2, 1\)"):
        solve(A, y[:, :1])
    y[1, 3] = torch.nan
    with pytest.raises(ValueError, match="1 of 40"):
        solve(A, y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda A, y: sirt(A, y, relaxation=2.0), r"relaxation .* got 2\.0"),
        (lambda A, y: os_sart([A], [y], relaxation=0.0), r"relaxation .* got 0\.0"),
        (lambda A, y: os_sart([A, A], [y]), "2 operators and 1 sinograms"),
        (lambda A, y: os_sart([], []), "0 operators and 0 sinograms"),
        (lambda A, y: os_sart([A, A], [y, y / 0]), r"sinograms\[1\]"),
        (
            lambda A, y: os_sart([A, positive(20, (4, 3))], [y, y]),
            r"in_shape, got \[\(3, 4\), \(4, 3\)\]",
        ),
        (lambda A, y: os_sart([A, A], [y, y[None]]), r"batch .* got \[\(\), \(1,\)\]"),
        (lambda A, y: cgls(A, y, damping=-1.0), r"damping .* -1\.0"),
        (lambda A, y: fista_tv(A, y, -1.0), r"strength .* -1\.0"),
        (lambda A, y: fista_tv(A, y, torch.ones(3)), r"strength .*\(\), got .*\(3,\)"),
        (lambda A, y: fista_tv(A, y, 1.0, inner_iterations=0), "inner_iterations .* 0"),
        (lambda A, y: fista_tv(A, y, 1.0, spacing_cm=[1.0]), r"spacing_cm .* 2 .*\[1\.0\]"),
        (lambda A, y: fista_tv(A, y, 1.0, spacing_cm=[1.0, 0.0]), r"spacing_cm .*\[1\.0, 0\.0\]"),
        (lambda A, y: fista_tv(Diagonal(0 * y), y, 1.0), "Diagonal .* zero"),
    ],
)
def test_other_impossible_input_raises_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call(positive(), torch.rand(20))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EVERY_SOLVER
def test_gpu_agrees_with_cpu(solve):
    A, y = positive(), torch.rand(2, 20)
    expected = solve(A, y, max_iterations=5).x
    torch.testing.assert_close(solve(A.cuda(), y.cuda(), max_iterations=5).x.cpu(), expected)
