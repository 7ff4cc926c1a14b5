"""For any counts: results are finite, masks are correct, and rays are independent."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from support.scanners import FOUR_BINS, SIX_BINS, scanner

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.solvers.nelder_mead import NelderMead
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.unrolled import UnrolledNewton

BENCHMARK = Path(__file__).parents[2] / "benchmarks/hostile_rays.py"
spec = importlib.util.spec_from_file_location("benchmark_hostile_rays", BENCHMARK)
assert spec is not None
assert spec.loader is not None
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)

SOLVERS = {
    "newton": {},
    "scoring": {
        "solver": DampedNewton(max_steps=100, exact=False),
        "warm_start": [DampedNewton(max_steps=5, exact=False, resolved_by=torch.float32)],
    },
    "simplex": {"solver": NelderMead(max_steps=200), "warm_start": ()},
    "unrolled": {"solver": UnrolledNewton(steps=20), "adjoint": "unrolled"},
}
EVERY_SOLVER = pytest.mark.parametrize("solver", SOLVERS)
EVERY_PRECISION = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
EVERY_SIZE = pytest.mark.parametrize("n_materials", [2, 3])
BOXED = pytest.mark.parametrize("boxed", [True, False], ids=["box", "no box"])


def setup(n_materials):
    """A scanner with few energies, exact in float32."""
    materials, edges_keV = [
        (["water", "calcium"], FOUR_BINS),
        (["water", "calcium", "iodine"], SIX_BINS),
    ][n_materials - 2]
    model = scanner(materials, edges_keV, every=4)
    shifts = torch.linspace(-1, 1, 3)[:, None]
    tensors = model.spectra(), model.spectra(torch.tensor(edges_keV) + shifts), model.attenuation
    return benchmark.Setup(
        *(t.detach().float().double() for t in tensors),
        [[-5.0, -7.75, -2.0][:n_materials], [60.0, 15.5, 2.0][:n_materials]],
        torch.tensor([30.0, 3.0, 0.2][:n_materials]),
    )


def hostile(scene, n, photons=1e5, seed=3):
    """Counts of all kinds and the spectra of their dose, exact in float32."""
    spectra = scene.spectra * (photons / benchmark.PHOTONS)
    generator = torch.Generator().manual_seed(seed)
    counts = benchmark.counts_of(scene, spectra, n, photons, generator)
    return counts.float().double(), spectra.float().double()


def solved(scene, counts, spectra, dtype=torch.float64, boxed=True, solver="newton", **more):
    box = scene.box if boxed else None
    mu = scene.attenuation
    given = (t.to(dtype) for t in (counts, spectra, mu))
    return decompose(*given, bounds=box, **{**SOLVERS[solver], **more})


@EVERY_SOLVER
@EVERY_PRECISION
@EVERY_SIZE
@BOXED
def test_a_converged_ray_is_at_a_minimum(solver, dtype, n_materials, boxed):
    scene = setup(n_materials)
    counts, spectra = hostile(scene, 42)
    x, converged = solved(scene, counts, spectra, dtype, boxed, solver)
    assert x.isfinite().all()
    # undamped steps in float32 reach few such minima
    assert converged.sum() >= 4 or solver == "unrolled"
    limits = np.array(scene.box).T if boxed else np.array([[-np.inf, np.inf]] * n_materials)
    for ray in converged.nonzero()[:, 0]:
        problem = benchmark.Ray(counts[ray], spectra, scene.attenuation)
        local = benchmark.polished(problem, x[ray].double().numpy(), limits)
        assert np.abs(local - x[ray].numpy()).max() <= 1e-4
        assert benchmark.is_minimum(problem, local, limits)


@EVERY_SIZE
@BOXED
@pytest.mark.parametrize("photons", [1e3, 1e6])
def test_single_precision_equals_double(n_materials, boxed, photons):
    scene = setup(n_materials)
    counts, spectra = hostile(scene, 700, photons)
    x, converged = solved(scene, counts, spectra, boxed=boxed)
    single = solved(scene, counts, spectra, torch.float32, boxed)
    both = converged & single.converged
    assert both.sum() > 300
    far = both & ((single.x.double() - x).abs().amax(-1) > 1e-4)

    def values(at):
        return poisson_likelihood(at, counts[far], spectra, scene.attenuation).value

    # another minimum is found only if it is likelier
    assert (values(single.x[far].double()) < values(x[far])).all()
    assert far.sum() <= 0.01 * both.sum()
    # float64 alone converges only where float32 does not resolve this distance
    assert (x[converged & ~single.converged].abs().amax(-1) > 300).all()
    # and float32 alone at a minimum, which the starts of float64 miss
    only = single.converged & ~converged
    again = solved(
        scene, counts[only], spectra, boxed=boxed, start=single.x[only].double(), warm_start=()
    )
    assert again.converged.all()
    assert ((again.x - single.x[only]).abs() <= 1e-4).all()


@EVERY_SOLVER
@EVERY_PRECISION
@EVERY_SIZE
@BOXED
def test_rays_are_independent(solver, dtype, n_materials, boxed):
    scene = setup(n_materials)
    n, n_hard = (60, 100) if solver in ("newton", "scoring") else (8, 6)
    counts, spectra = hostile(scene, n)
    hard = hostile(scene, n_hard, photons=1e2, seed=4)[0]  # nearly all of them need more steps
    x, converged = solved(scene, counts, spectra, dtype, boxed, solver)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-6

    def same(rays, among):
        again = solved(scene, among, spectra, dtype, boxed, solver)
        assert torch.equal(again.converged[: len(rays)], converged[rays])
        kept = converged[rays]
        torch.testing.assert_close(
            again.x[: len(rays)][kept], x[rays][kept], rtol=0, atol=tolerance
        )

    order = torch.randperm(n)
    same(order, counts[order])
    same(order[:7], counts[order[:7]])
    same(torch.arange(n), torch.cat([counts, hard]))


@pytest.mark.parametrize("n_hard", [0, 1, 25, 50])
@EVERY_PRECISION
def test_pixels_with_their_own_spectra_are_independent(n_hard, dtype):
    scene = setup(2)
    counts, _ = hostile(scene, 180, benchmark.PHOTONS)
    counts = counts.reshape(60, 3, -1)
    counts[:n_hard, 1] = counts.new_tensor([1e5, 3.0, 0.0, 1.0])
    x, converged = solved(scene, counts, scene.pixel_spectra, dtype)
    for pixel in range(3):
        alone = solved(scene, counts[:, pixel], scene.pixel_spectra[pixel], dtype)
        assert torch.equal(alone.converged, converged[:, pixel])
        apart = alone.converged & ((alone.x - x[:, pixel]).abs() > 1e-4).any(-1)
        # with other pixels the search for another minimum is less thorough
        n, S = counts[apart, pixel].double(), scene.pixel_spectra[pixel].double()
        own, together = (
            poisson_likelihood(line[apart].double(), n, S, scene.attenuation.double()).value
            for line in (alone.x, x[:, pixel])
        )
        assert (own < together).all()
        assert apart.sum() <= 2


@EVERY_SOLVER
@EVERY_PRECISION
@BOXED
@pytest.mark.parametrize("total", [0.0, 4e-8, 0.4])
@pytest.mark.parametrize("share", [[0.25] * 4, [0.7, 0.0, 0.0, 0.3]])
def test_rays_with_less_than_half_a_photon_do_not_converge(solver, dtype, boxed, total, share):
    scene = setup(2)
    counts = (total * torch.tensor([share, share])).to(dtype).requires_grad_()
    x, converged = solved(scene, counts, scene.spectra, dtype, boxed, solver)
    assert not converged.any()
    assert x.isfinite().all()
    x.sum().backward()
    assert (counts.grad == 0).all()


@EVERY_PRECISION
def test_the_gradient_of_a_ray_that_needed_double_precision_is_exact(dtype):
    scene = setup(2)
    counts, spectra = hostile(scene, 300, 1e3)
    leaf = counts.to(dtype).requires_grad_()
    x, converged = solved(scene, leaf, spectra, dtype, boxed=False)
    (gradient,) = torch.autograd.grad(x.sum(), leaf)
    assert (gradient[~converged] == 0).all()
    # H⁻¹ ∂_k ȳ_b / ȳ_b at the float64 minimum, summed over the materials
    at = solved(scene, counts, spectra, boxed=False)
    near = (x.detach().double() - at.x).abs().amax(-1) <= 1e-4  # others are at a likelier minimum
    assert (near | ~converged | ~at.converged).double().mean() > 0.98
    kept = converged & at.converged & near
    exact = torch.func.vmap(
        torch.func.hessian(lambda A, n: _half_deviance(A, n, spectra, scene.attenuation))
    )(at.x[kept], counts[kept])
    mean = torch.exp(-at.x[kept] @ scene.attenuation) @ spectra.mT
    slope = torch.einsum(
        "re,be,me->rbm", torch.exp(-at.x[kept] @ scene.attenuation), spectra, scene.attenuation
    )
    expected = -torch.linalg.solve(exact, (slope / mean[..., None]).mT).sum(-2)
    scale = expected.abs().amax(-1, keepdim=True)
    assert ((gradient[kept] - expected).abs() / scale).max() < 1e-3


def _half_deviance(A, n, spectra, attenuation):
    mean = torch.exp(-A @ attenuation) @ spectra.mT
    return (mean - n * torch.log(mean)).sum()


@EVERY_PRECISION
@pytest.mark.parametrize("value", [1e30, 1e12])
def test_extreme_counts_give_finite_results(dtype, value):
    scene = setup(2)
    counts = torch.full((3, 4), value)
    counts[1] *= torch.tensor([1.0, 0.5, 0.0, 2.0])
    for boxed in (True, False):
        x, _ = solved(scene, counts, scene.spectra, dtype, boxed)
        assert x.isfinite().all()


@EVERY_PRECISION
def test_rounding_of_one_material_does_not_free_another_from_its_limit(dtype):
    scene = benchmark.scanner(2)
    spectra = (scene.spectra * 1e-4).float().double()  # 100 photons in air
    counts = torch.tensor([2442322.0, 0.0, 0.0, 0.0])
    x, converged = solved(scene, counts, spectra, dtype)
    assert converged
    limits = np.array(scene.box).T
    ray = benchmark.Ray(counts, spectra, scene.attenuation)
    local = benchmark.polished(ray, x.double().numpy(), limits)
    assert local[0] == x[0] == scene.box[1][0]
    assert np.abs(local - x.numpy()).max() < 1e-6
    assert benchmark.is_minimum(ray, local, limits)
