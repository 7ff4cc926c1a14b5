"""Impossible inputs raise an error that names them; others are converted to one precision."""

import re

import pytest
import torch
from support.scanners import scanner

from pcctlearn.decomposition.maximum_likelihood import (
    MaximumLikelihood,
    compare_starts,
    decompose,
)


def problem(n_pixels=None):
    model = scanner(every=4, n_pixels=n_pixels)
    truth = torch.tensor([10.0, 0.5]) * (1 + torch.rand(6, n_pixels or 1, 2))
    truth = truth if n_pixels else truth[:, 0]
    return model(truth).detach().round(), model.spectra().detach(), model.attenuation


def bad_value(value):
    def change(spectra):
        spectra[..., 2, 5] = value

    return change


def empty_bin(spectra):
    spectra[..., 1, :] = 0


def nothing(spectra):
    spectra[:] = 0


@pytest.mark.parametrize("n_pixels", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("adjoint", ["implicit", "unrolled"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bad_value(torch.nan), "spectra .* nan in bin 2"),
        (bad_value(torch.inf), "spectra .* inf in bin 2"),
        (bad_value(-3.0), "spectra .* -3 in bin 2"),
        (lambda spectra: spectra.neg_(), "spectra .*negative"),
        (empty_bin, "bin 1 .*zero"),
        (nothing, "bin 0 .*zero"),
    ],
)
def test_impossible_spectra_raise_an_error(change, message, n_pixels, dtype, adjoint):
    counts, spectra, attenuation = (t.to(dtype).clone() for t in problem(n_pixels))
    change(spectra)
    for given in (spectra, spectra.requires_grad_()):
        with pytest.raises(ValueError, match=message) as error:
            decompose(counts, given, attenuation, adjoint=adjoint)
        assert "pixel" in str(error.value) or n_pixels is None


def test_the_error_names_the_pixel_and_removing_the_bin_is_the_remedy():
    counts, spectra, attenuation = problem(3)
    spectra[2, 3] = 0
    with pytest.raises(ValueError, match=re.escape("bin 3 of pixel 2")):
        decompose(counts, spectra, attenuation)
    assert decompose(counts[..., :3], spectra[:, :3], attenuation).converged.all()


def test_spectra_that_rounding_makes_negative_are_accepted():
    counts, spectra, attenuation = problem()
    reference = decompose(counts, spectra, attenuation).x
    spectra[0, 3] = -1e-9
    torch.testing.assert_close(
        decompose(counts, spectra, attenuation).x, reference, atol=0.2, rtol=0
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_attenuation_that_is_not_finite_raises_an_error(bad):
    counts, spectra, attenuation = problem()
    attenuation = attenuation.clone()
    attenuation[1, 3] = bad
    with pytest.raises(ValueError, match="attenuation"):
        decompose(counts, spectra, attenuation)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accepted_for_counts_only(dtype):
    counts, spectra, attenuation = problem()
    counts = counts.clamp(max=250)  # exact in eight bits
    with pytest.raises(TypeError, match=r"float16 .*spectra"):
        decompose(counts, spectra.to(dtype), attenuation)
    with pytest.raises(TypeError, match=r"float16 .*attenuation"):
        decompose(counts, spectra, attenuation.to(dtype))
    x, converged = decompose(counts.to(dtype), spectra, attenuation)
    reference = decompose(counts, spectra, attenuation)
    assert torch.equal(converged, reference.converged)
    torch.testing.assert_close(x, reference.x)


def test_precisions_may_be_mixed_and_counts_integers(annotations_off):
    counts, spectra, attenuation = problem()
    reference = decompose(counts, spectra, attenuation).x
    for given in (counts.to(torch.int32), counts.to(torch.int64), counts.float()):
        x, converged = decompose(given, spectra, attenuation)
        assert converged.all()
        torch.testing.assert_close(x, reference)
    single = decompose(counts.to(torch.int64), spectra.float(), attenuation.float())
    assert single.x.dtype == torch.float32
    solution, disagree = compare_starts(
        counts.to(torch.int64), spectra, attenuation, torch.zeros(6, 2)
    )
    assert not disagree.any()
    torch.testing.assert_close(solution.x, reference)


@pytest.mark.parametrize("n_pixels", [None, 3])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 3)])
def test_no_rays(n_pixels, shape):
    _, spectra, attenuation = problem(n_pixels)
    if n_pixels and shape[-1] != 3:
        shape = (*shape, 3)
    x, converged = decompose(torch.zeros(*shape, 4), spectra, attenuation)
    assert x.shape == (*shape, 2)
    assert converged.shape == shape


def test_autocast_has_no_effect_on_the_minimum_or_its_gradient():
    model = scanner(every=4)
    counts = problem()[0].T[None, :, :, None]  # batch, bin, view, pixel
    results = []
    for enabled in (False, True):
        leaf = counts.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            x = MaximumLikelihood(model)(leaf).x
            x.sum().backward()
            expected = model(x.detach().movedim(1, -1))
        results.append((x.detach(), leaf.grad, expected))
    for plain, cast in zip(*results, strict=True):
        torch.testing.assert_close(cast, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_layer_accepts_counts_in_half_precision(dtype):
    model = scanner(every=4)
    counts = problem()[0].T[None, :, :, None].clamp(max=250)
    x = MaximumLikelihood(model)(counts.to(dtype)).x
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, MaximumLikelihood(model)(counts.float()).x, rtol=0, atol=1e-4)
