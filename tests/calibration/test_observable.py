"""Derivatives of line integrals and counts in the thresholds, and observable pixels."""

import pytest
import torch
from support.scanners import scanner
from support.studies import slabs

from pcctlearn.calibration.thresholds import decomposed_information, is_observable
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.sensitivity import count_information, threshold_jacobian
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import expected_counts

N_PIXELS = 2


@pytest.fixture(name="model")
def _model():
    return scanner(every=4, n_pixels=N_PIXELS)


def test_threshold_jacobian_is_the_central_difference(model):
    A = slabs(N_PIXELS)
    counts = draw_counts(model(A).detach(), torch.Generator().manual_seed(0))
    edges = model.thresholds.edges_keV.detach()

    def solve(edges):
        return decompose(counts, model.spectra(edges).detach(), model.attenuation, start=A).x

    jacobian = threshold_jacobian(model, solve(edges), counts)
    for j in range(edges.shape[-1] - 1):
        step = torch.zeros_like(edges)
        step[:, j] = 1e-4
        difference = (solve(edges + step) - solve(edges - step)) / 2e-4
        assert difference.abs().max() > 1e-3
        torch.testing.assert_close(jacobian[..., j], difference, rtol=1e-4, atol=1e-6)


def test_count_information_is_the_fisher_matrix_of_autograd(model):
    A, edges = slabs(N_PIXELS), model.thresholds.edges_keV.detach()

    def counts(edges):
        return expected_counts(A, model.spectra(edges), model.attenuation)

    slope = torch.autograd.functional.jacobian(counts, edges)  # (slab, pixel, bin, pixel, edge)
    diagonal = torch.stack([slope[:, p, :, p] for p in range(N_PIXELS)], 1)
    fisher = torch.einsum("vpbj,vpbl,vpb->pjl", diagonal, diagonal, 1 / counts(edges).detach())
    torch.testing.assert_close(count_information(model, A), fisher)


def test_line_integrals_have_no_more_information_than_the_counts(model):
    A = slabs(N_PIXELS)
    jacobian = threshold_jacobian(model, A, model(A).detach())
    of_counts = count_information(model, A)
    lost = torch.linalg.eigvalsh(of_counts - decomposed_information(model, A, jacobian))
    assert (lost > -1e-9 * of_counts.abs().max()).all()
    assert (lost[:, -1] > 0).all()  # four bins have more information than two materials


def test_air_makes_no_pixel_observable(model):
    A = slabs(N_PIXELS).clone()
    A[:, 1] = 0
    jacobian = threshold_jacobian(model, A, model(A).detach())
    information = decomposed_information(model, A, jacobian)
    learn = model.thresholds.learn
    assert is_observable(information, learn, max_sd_keV=100.0).tolist() == [True, False]
    assert is_observable(information, learn, max_sd_keV=1e-9).tolist() == [False, False]


def test_more_photons_make_a_pixel_observable():
    few, many = scanner(every=4, photons=1e2, n_pixels=1), scanner(every=4, photons=1e6, n_pixels=1)
    A = slabs()
    found = []
    for model in (few, many):
        jacobian = threshold_jacobian(model, A, model(A).detach())
        information = decomposed_information(model, A, jacobian)
        least = torch.linalg.eigvalsh(information[:, :4, :4])[:, 0]
        found.append(least.rsqrt())
    torch.testing.assert_close(found[0], 100 * found[1])
