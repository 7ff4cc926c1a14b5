"""Cubic splines through values on a grid."""

import pytest
import torch
from torch.autograd import gradcheck

from pcctlearn.decomposition.spline_table import SplineTable, grid, spline_coefficients


def smooth(z):
    """A polynomial of degree 3 in each axis, and a function that is none."""
    return torch.stack([(z**3 - z).sum(-1) * z.prod(-1).square(), torch.sin(2 * z).prod(-1)], -1)


def table_of(n_axes, n_nodes, function=smooth):
    low, high = torch.full((n_axes,), -0.5), torch.ones(n_axes)
    values = function(grid(low, high, n_nodes))
    return SplineTable(spline_coefficients(values, n_axes), low, high, n_nodes)


def points(n_axes, n=500):
    return torch.rand(n, n_axes, generator=torch.Generator().manual_seed(1)) * 1.5 - 0.5


@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_nodes_and_cubic_polynomials_are_exact(n_axes):
    table = table_of(n_axes, 7, lambda z: torch.stack([z.prod(-1) ** 3, (z**2).sum(-1)], -1))
    z = torch.cat([points(n_axes), grid(table.low, table.high, 7)])
    known = torch.stack([z.prod(-1) ** 3, (z**2).sum(-1)], -1)
    torch.testing.assert_close(table(z), known, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_the_error_is_of_fourth_order(n_axes):
    z = points(n_axes)
    errors = [(table_of(n_axes, n)(z) - smooth(z)).square().mean().sqrt() for n in (11, 21)]
    assert 12 < errors[0] / errors[1] < 30


def test_derivatives_in_points_and_values():
    nodes = smooth(grid(torch.full((2,), -0.5), torch.ones(2), 6)).requires_grad_()
    z = points(2, 5).requires_grad_()

    def value(z, nodes):
        low, high = torch.full((2,), -0.5), torch.ones(2)
        return SplineTable(spline_coefficients(nodes, 2), low, high, 6)(z)

    assert gradcheck(value, (z, nodes))


def test_rays_may_have_tables_of_their_own():
    tables = [table_of(2, 9), table_of(2, 9, lambda z: 2 - smooth(z))]
    both = tables[0]._replace(coefficients=torch.cat([t.coefficients for t in tables]))
    z = points(2, 12).reshape(6, 2, 2)
    found = both(z, torch.arange(2))
    for pixel, table in enumerate(tables):
        torch.testing.assert_close(found[:, pixel], table(z[:, pixel]))


def test_points_off_the_grid_are_told():
    table = table_of(2, 9)
    z = torch.tensor([[0.0, 1.0], [-0.5, -0.5], [0.0, 1.01], [-0.6, 0.0]])
    assert table.holds(z).tolist() == [True, True, False, False]
    assert table(z).isfinite().all()
