"""Small systems are solved as by LAPACK, and indefinite ones are flagged."""

import pytest
import torch
from support.objectives import random_bowls

from pcctlearn.solvers.small_systems import solve_positive_definite


@pytest.mark.parametrize("n_unknowns", [1, 2, 3, 5])
def test_the_solution_is_that_of_lapack(n_unknowns):
    matrix, right = random_bowls(50, n_unknowns)
    x, positive = solve_positive_definite(matrix, right)
    assert positive.all()
    torch.testing.assert_close(x, torch.linalg.solve(matrix, right))


@pytest.mark.parametrize("n_unknowns", [2, 3])
def test_fixed_unknowns_are_removed(n_unknowns):
    matrix, right = random_bowls(50, n_unknowns)
    free = torch.rand(50, n_unknowns, generator=torch.Generator().manual_seed(2)) < 0.6
    x, positive = solve_positive_definite(matrix, right, free)
    assert positive.all()
    assert (x[~free] == 0).all()
    for ray in range(50):
        f = free[ray]
        reduced = torch.linalg.solve(matrix[ray][f][:, f], right[ray][f])
        torch.testing.assert_close(x[ray][f], reduced)


def test_a_fixed_unknown_may_be_nan():
    matrix = torch.tensor([[2.0, torch.nan], [torch.nan, -1.0]])
    x, positive = solve_positive_definite(
        matrix, torch.tensor([4.0, torch.nan]), torch.tensor([True, False])
    )
    assert positive
    assert x.tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 2.0], [2.0, 4.0]],  # singular
        [[1.0, 2.0], [2.0, 1.0]],  # indefinite
        [[-1.0, 0.0], [0.0, -1.0]],
        [[1.0, 0.0], [0.0, -1.0]],
        [[1.0, torch.nan], [torch.nan, 1.0]],
        [[torch.nan, 0.0], [0.0, 1.0]],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_matrices_are_flagged_without_effect_on_the_batch(matrix, dtype):
    sound = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=dtype)
    batch = torch.stack([sound, torch.tensor(matrix, dtype=dtype), sound])
    right = torch.ones(3, 2, dtype=dtype)
    x, positive = solve_positive_definite(batch, right)
    assert positive.tolist() == [True, False, True]
    torch.testing.assert_close(x[[0, 2]], torch.linalg.solve(batch[[0, 2]], right[[0, 2]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_matrix_is_flagged_despite_rounding(dtype):
    v = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)).to(dtype) + 0.1
    _, positive = solve_positive_definite(v[:, :, None] * v[:, None], v)
    assert not positive.any()


def test_flagged_systems_give_finite_numbers():
    matrix = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    x, positive = solve_positive_definite(matrix, torch.ones(2))
    assert not positive
    assert x.isfinite().all()
