"""A Gauss–Newton step is the solution of its dense normal equations."""

import pytest
import torch

from pcctlearn.calibration.gauss_newton import GaussNewton
from pcctlearn.losses.curvature import Curvature

V, P, K, E = 3, 4, 2, 3  # views, pixels, materials, edges
DAMPING = 0.1


def positive(*shape):
    a = torch.randn(*shape, shape[-1])
    return a @ a.mT + torch.eye(shape[-1])


def problem():
    jacobian, gradient = torch.randn(V, P, K, E), torch.randn(P, E)
    of_rays, of_edges = positive(V, P, K), positive(P, E)
    per_pixel = torch.einsum("vpkj,vpkm,vpml->pjl", jacobian, of_rays, jacobian)
    return jacobian, gradient, of_rays, of_edges, per_pixel


def as_matrix(blocks):
    return torch.block_diag(*blocks)


@pytest.mark.parametrize("with_edges", [False, True])
def test_without_coupling_pixels_are_solved_separately(with_edges):
    jacobian, gradient, of_rays, of_edges, per_pixel = problem()
    per_pixel = per_pixel + of_edges if with_edges else per_pixel
    curvature = Curvature(of_rays, of_edges if with_edges else None)
    step = GaussNewton().step(jacobian, gradient, curvature, DAMPING)
    damped = as_matrix(per_pixel) + DAMPING * torch.diag(
        per_pixel.diagonal(dim1=1, dim2=2).flatten()
    )
    torch.testing.assert_close(step.flatten(), -torch.linalg.solve(damped, gradient.flatten()))


@pytest.mark.parametrize("with_edges", [False, True])
def test_with_coupling_all_pixels_are_solved_together(with_edges):
    jacobian, gradient, of_rays, of_edges, per_pixel = problem()
    per_pixel = per_pixel + of_edges if with_edges else per_pixel
    F = torch.randn(30, K * V * P)

    def coupling(sinogram):
        return (F.mT @ (F @ sinogram.flatten())).reshape(K, V, P)

    curvature = Curvature(of_rays, of_edges if with_edges else None, coupling)
    step = GaussNewton(tolerance=1e-12).step(jacobian, gradient, curvature, DAMPING)
    J = torch.einsum("vpkj,pq->kvpqj", jacobian, torch.eye(P)).reshape(K * V * P, P * E)
    normal = J.mT @ F.mT @ F @ J + DAMPING * torch.diag(
        per_pixel.diagonal(dim1=1, dim2=2).flatten()
    )
    normal = normal + as_matrix(of_edges) if with_edges else normal
    torch.testing.assert_close(step.flatten(), -torch.linalg.solve(normal, gradient.flatten()))


def test_edges_without_effect_are_kept():
    jacobian, gradient, of_rays, _, _ = problem()
    jacobian[..., -1] = 0
    gradient[:, -1] = 0
    step = GaussNewton().step(jacobian, gradient, Curvature(of_rays), DAMPING)
    assert (step[:, -1] == 0).all()
    assert (step[:, :-1] != 0).all()


def test_damping_must_be_positive():
    with pytest.raises(ValueError, match=r"damping .*-1"):
        GaussNewton(damping=-1.0)
