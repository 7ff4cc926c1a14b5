"""Kernels for a CUDA device find what compiled functions find on the CPU.

Without a device they are interpreted, on few rays and energies.
"""

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton, which CUDA builds of torch install")

from decomposition.test_fused import BOX, drawn

from pcctlearn.decomposition import (
    fused,
    fused_gradients,
    fused_triton,
    gradients_triton,
    newton_triton,
)
from pcctlearn.decomposition.ambiguity import SAME_VALUE
from pcctlearn.decomposition.minima import in_double
from pcctlearn.decomposition.pieces import Rays, started
from pcctlearn.decomposition.polynomial import fit_polynomial
from pcctlearn.decomposition.profiles import Starts, tabulated_profiles
from pcctlearn.solvers.minimum import DISTANCE
from pcctlearn.solvers.quadratic import Bounds

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy as interpreter


def problem(name, where, photons, n, seed, n_pixels=1, every=3):
    """Rays with few of the energies, and their polynomial."""
    counts, S, mu = drawn(name, where, photons, n, seed)
    S, mu, counts = (
        S[:, ::every] * every,
        mu[:, ::every],
        counts[: len(counts) // n_pixels * n_pixels],
    )
    counts, S, mu = counts.float(), S.float().contiguous(), mu.float().contiguous()
    polynomial = fit_polynomial(S.double(), mu.double())
    limits = Bounds(*(torch.tensor(side[: len(mu)], dtype=torch.float32) for side in BOX))
    if n_pixels == 1:
        rays = Rays(counts, S, None)
    else:
        skew = torch.linspace(0.9, 1.1, n_pixels)[:, None, None]
        rays = Rays(counts.reshape(n_pixels, -1, counts.shape[-1]), (S * skew).float(), None)
    return rays, fused.problem(rays, mu, limits), polynomial


def to_device(tensors):
    return [t.to(DEVICE) for t in tensors]


BEAMS = [("silicon", "usual", 1e6, 1), ("silicon", "hostile", 1e6, 2), ("iodine", "usual", 1e7, 1)]


@pytest.mark.parametrize("beam", BEAMS, ids=lambda beam: beam[0] + " " + beam[1])
def test_easy_minima_and_gradients(beam):
    name, where, photons, n_pixels = beam
    _, given, polynomial = problem(name, where, photons, 90, 5, n_pixels)
    start = polynomial.coefficients.float(), polynomial.range.float()
    expected, _ = fused.easy_minima(given, polynomial, of_profiles(given, polynomial), 0.5, 0.02)
    x, solved = fused_triton.minimise(
        *to_device([*given.tensors(), *start, *given.limits()]), (DISTANCE, 0.5, 0.02)
    )
    x, solved = x.cpu().flatten(0, 1), solved.cpu().flatten()
    # on a CPU with two materials more are: of those with several minima, too
    assert (solved & ~expected.converged).double().mean() < 0.03
    both = solved & expected.converged
    assert both.double().mean() > 0.15
    assert ((x - expected.x).abs()[both] <= 2 * DISTANCE).all()

    shape = given.counts.shape[:2]
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).float()
    rays = [t.reshape(*shape, *t.shape[1:]) for t in (expected.x, expected.converged, cotangent)]
    right = fused_gradients._on_cpu(given, *rays, True, True)
    found = gradients_of(given, rays)
    # terms of either sign cancel in the sums of the tables
    for one, other, rounding in zip(found, right, (1e-4, 1e-3, 1e-3), strict=True):
        assert ((one - other).abs() <= rounding * other.abs().amax(-1, keepdim=True)).all()


def of_profiles(given, polynomial):
    """Starts of two materials on a CPU."""
    if len(given.attenuation) > 2:
        return None
    box = torch.stack(given.limits())
    return tabulated_profiles(given.spectra, given.attenuation, polynomial.range, box)


def from_zero_too(start):
    """Starts of both searches, as the kernel has them."""
    flat = start.flatten(0, -2)
    return Starts(flat, torch.zeros_like(flat), torch.zeros(len(flat), dtype=torch.bool))


def gradients_of(given, rays):
    """Gradients in counts, spectra and attenuation by the kernel."""
    x, passes, cotangent = to_device(rays)
    tables = to_device([*given.tensors(), *given.limits()])
    return [t.cpu() for t in gradients_triton.gradients(x, *tables, passes, cotangent, True)]


@pytest.mark.parametrize("beam", BEAMS, ids=lambda beam: beam[0] + " " + beam[1])
def test_minima_in_double_precision(beam):
    name, where, photons, n_pixels = beam
    rays, given, polynomial = problem(name, where, photons / 100, 30, 6, n_pixels, every=6)
    start = started(rays, polynomial).start.reshape(*given.counts.shape[:2], -1)
    wanted = torch.rand(start.shape[:2], generator=torch.Generator().manual_seed(2)) > 0.3
    expected = fused.hard_minima(
        given, from_zero_too(start), wanted.flatten(), ~wanted.flatten(), SAME_VALUE
    )
    x, converged = newton_triton.search(
        *to_device([*given.tensors(), start, wanted, *given.limits()]),
        DISTANCE,
        SAME_VALUE,
        torch.float64,
    )
    assert torch.equal(converged.cpu().flatten(), expected.converged)
    assert expected.converged.sum() > 15
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    shape = given.counts.shape[:2]
    minima = [t.reshape(*shape, *t.shape[1:]) for t in (expected.x, expected.converged)]
    double = fused.problem(*in_double(rays, given.attenuation, given.bounds))
    right = fused_gradients._on_cpu(double, *minima, cotangent, True, True)
    for one, other in zip(gradients_of(double, [*minima, cotangent]), right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9 * other.abs().max())
    x = x.cpu().flatten(0, 1)[expected.converged]
    torch.testing.assert_close(x, expected.x[expected.converged], rtol=0, atol=1e-8)


@pytest.mark.parametrize("beam", BEAMS[:2], ids=lambda beam: beam[0] + " " + beam[1])
def test_minima_of_few_photons(beam):
    name, where, photons, n_pixels = beam
    rays, given, polynomial = problem(name, where, photons / 100, 30, 6, n_pixels, every=6)
    start = started(rays, polynomial).start.reshape(*given.counts.shape[:2], -1)
    wanted = torch.ones(start.shape[:2], dtype=torch.bool)
    expected = fused.ambiguous_minima(given, from_zero_too(start), wanted.flatten())
    x, converged = newton_triton.search(
        *to_device([*given.tensors(), start, wanted, *given.limits()]),
        DISTANCE,
        fused._GAP,
        torch.float32,
    )
    both = converged.cpu().flatten() & expected.solved
    assert both.sum() >= 3
    assert ((x.cpu().flatten(0, 1) - expected.x).abs()[both] <= 2 * DISTANCE).all()
    right = fused.hard_minima(
        given, from_zero_too(start), wanted.flatten(), ~wanted.flatten(), SAME_VALUE
    )
    solved = converged.cpu().flatten()
    assert ((x.cpu().flatten(0, 1) - right.x).abs()[solved] <= 1e-4).all()
