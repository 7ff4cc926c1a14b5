"""Decompositions of other libraries find the same minimum and gradient."""

import pytest
import torch
from support.scanners import scanner

from pcctlearn.decomposition.adapters import optimistix_newton, rtk_simplex, scipy_minimize
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.polynomial import fit_polynomial
from pcctlearn.physics.noise import draw_counts

LIBRARIES = {"scipy": scipy_minimize, "itk": rtk_simplex, "optimistix": optimistix_newton}


@pytest.mark.parametrize("library", LIBRARIES)
def test_other_libraries_find_the_same_minimum_and_gradient(library):
    pytest.importorskip(library, reason=f"{library} is an option, requirements-bench.txt")
    model, generator = scanner(every=4), torch.Generator().manual_seed(1)
    S, mu = model.spectra().detach(), model.attenuation
    truth = torch.rand(24, 2, generator=generator) * torch.tensor([25.0, 2.0])
    counts = draw_counts(model(truth).detach(), generator).requires_grad_()
    x, converged = decompose(counts, S, mu)
    polynomial = fit_polynomial(S, mu)
    start = polynomial.clamped(polynomial(counts.detach(), S.sum(-1)))
    peer = LIBRARIES[library].prepare(counts.detach(), S, mu, start)
    assert converged.all()
    torch.testing.assert_close(peer.forward().double(), x.detach(), rtol=0, atol=1e-4)
    if peer.forward_backward is not None:
        again, gradient = peer.forward_backward()
        torch.testing.assert_close(again, x.detach(), rtol=0, atol=1e-9)
        expected = torch.autograd.grad(x.sum(), counts)[0]
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=0)
