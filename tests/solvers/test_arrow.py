"""Arrow-shaped equations agree with the dense matrix that they stand for."""

import pytest
import torch

from pcctlearn.solvers.arrow import Arrow, ArrowEquations, arrow_minimum

N, U, G, ROWS = 5, 3, 2, 12


def jacobians(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(N, ROWS, k, generator=generator).double() for k in (U, G))


def dense(arrow):
    size = N * U + G
    M = torch.zeros(size, size, dtype=torch.float64)
    for i in range(N):
        own = slice(i * U, (i + 1) * U)
        M[own, own], M[own, N * U :] = arrow.blocks[i], arrow.border[i]
        M[N * U :, own] = arrow.border[i].T
    M[N * U :, N * U :] = arrow.corner
    return M


def test_the_solution_is_that_of_the_dense_matrix():
    arrow = Arrow.of(*jacobians())
    x, g = torch.randn(N, U).double(), torch.randn(G).double()
    for lift in (0.0, 0.7):
        M = dense(arrow)
        found = arrow.solve(x, g, lift)
        wanted = torch.linalg.solve(
            M + lift * torch.diag(M.diagonal()), torch.cat([x.flatten(), g])
        )
        torch.testing.assert_close(torch.cat([found[0].flatten(), found[1]]), wanted)


def test_the_covariance_is_the_inverse():
    arrow = Arrow.of(*jacobians())
    found, inverse = arrow.covariance(), torch.linalg.inv(dense(arrow))
    torch.testing.assert_close(found.shared, inverse[N * U :, N * U :])
    own = torch.stack([inverse[i * U : (i + 1) * U, i * U : (i + 1) * U] for i in range(N)])
    torch.testing.assert_close(found.of_problems(), own)
    mean = torch.zeros(U + G, N * U + G, dtype=torch.float64)
    mean[:U, : N * U] = torch.eye(U).repeat(1, N) / N
    mean[U:, N * U :] = torch.eye(G)
    torch.testing.assert_close(found.of_means(), mean @ inverse @ mean.T)


def test_unknowns_that_are_held_do_not_move():
    local, shared = torch.tensor([False, True, False]), torch.tensor([True, False])
    arrow = Arrow.of(*jacobians())
    x, g = torch.randn(N, U).double(), torch.randn(G).double()
    held = arrow.holding(local, shared)
    found = held.solve(x.masked_fill(local, 0), g.masked_fill(shared, 0))
    assert (found[0][:, local] == 0).all()
    free = torch.cat([(~local).repeat(N), ~shared])
    M = dense(arrow)[free][:, free]
    wanted = torch.linalg.solve(M, torch.cat([x.flatten(), g])[free])
    torch.testing.assert_close(torch.cat([found[0].flatten(), found[1]])[free], wanted)


def test_a_problem_without_information_takes_no_part():
    local, shared = jacobians()
    local[2, :, 0] = local[2, :, 1]
    shared[2] = 0
    arrow = Arrow.of(local, shared)
    x, g = torch.ones(N, U).double(), torch.ones(G).double()
    found = arrow.solve(x, g)
    assert (found[0][2] == 0).all()
    others = torch.arange(N) != 2
    fewer = Arrow(arrow.blocks[others], arrow.border[others], arrow.corner).solve(x[others], g)
    torch.testing.assert_close(found[1], fewer[1])
    covariance = arrow.covariance()
    assert covariance.sound.tolist() == others.tolist()
    assert covariance.of_problems()[2].isnan().all()


def decays(times, data):
    """a_i exp(−b t) + c_i fitted to rows of data: b is shared."""

    def equations(x, g):
        shape = torch.exp(-g * times)
        value = x[:, :1] * shape + x[:, 1:] - data
        local = torch.stack([shape.expand_as(data), torch.ones_like(data)], -1)
        shared = (-x[:, :1] * times * shape)[..., None]
        return ArrowEquations(
            (local.mT @ value[..., None])[..., 0],
            (shared * value[..., None]).sum((0, 1)),
            Arrow.of(local, shared),
            value.square().sum(-1),
            torch.zeros(()).double(),
        )

    return equations


@pytest.mark.parametrize("least", [0.0, 1.5])
def test_the_minimum_is_found_within_its_limits(least):
    times = torch.linspace(0, 4, 20).double()
    true = torch.tensor([[2.0, 0.3], [1.0, -0.2], [3.0, 0.1]]).double()
    data = true[:, :1] * torch.exp(-0.8 * times) + true[:, 1:]
    found = arrow_minimum(
        decays(times, data), torch.ones(3, 2).double(), torch.tensor([3.0]).double(),
        lambda x, g: (x, g.clamp(min=least)), tolerance=1e-9,
    )  # fmt: skip
    assert found.converged
    if least == 0:
        torch.testing.assert_close(found.shared, torch.tensor([0.8]).double())
        torch.testing.assert_close(found.local, true)
    else:  # the unknowns of the problems are best for the limit
        assert float(found.shared) == least
        assert found.at.local.abs().max() < 1e-6
