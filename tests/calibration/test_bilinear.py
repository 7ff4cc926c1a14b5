"""Bilinear tables of every pixel are inverted."""

import torch

from pcctlearn.calibration.bilinear import BilinearMap

FIRST = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=torch.float64)
SECOND = torch.tensor([0.0, 0.3, 0.8], dtype=torch.float64)


def curved(n_pixels=3):
    a, b = torch.meshgrid(FIRST, SECOND, indexing="ij")
    factor = 1 + 0.1 * torch.arange(n_pixels, dtype=torch.float64)[:, None, None]
    return BilinearMap(
        torch.stack([factor * a - 0.03 * a**2 + b, 0.2 * a + factor * b - 0.1 * b**2], -1),
        FIRST,
        SECOND,
    )


def test_nodes_are_returned_and_derivatives_are_those_of_autograd():
    table = curved()
    nodes = torch.cartesian_prod(FIRST[:-1], SECOND[:-1])[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(
        table(nodes)[0], table.values[:, :-1, :-1].flatten(1, 2).movedim(1, 0)
    )
    v = torch.tensor([[0.4, 0.1], [3.0, 0.5], [5.0, -0.2]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda u: table(u)[0].sum(0), v).movedim(1, 0)
    torch.testing.assert_close(table(v)[1], jacobian)


def test_the_inverse_returns_the_arguments():
    table = curved()
    generator = torch.Generator().manual_seed(0)
    v = torch.rand(50, 3, 2, generator=generator, dtype=torch.float64) * torch.tensor([4.4, 0.9])
    v = v - 0.04
    found, solved = table.inverse(table(v)[0])
    assert solved.all()
    torch.testing.assert_close(found, v, rtol=0, atol=1e-7)
    assert table.regular_share().tolist() == [1.0, 1.0, 1.0]


def test_values_without_an_argument_are_marked():
    a, b = torch.meshgrid(FIRST, SECOND, indexing="ij")
    folded = BilinearMap(torch.stack([a * (3.2 - a), b], -1)[None], FIRST, SECOND)
    _, solved = folded.inverse(torch.tensor([[[9.0, 0.3]], [[1.0, 0.3]]], dtype=torch.float64))
    assert solved[:, 0].tolist() == [False, True]
    assert folded.regular_share() < 1
