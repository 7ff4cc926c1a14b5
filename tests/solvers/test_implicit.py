"""The implicit derivative agrees with finite differences of solved problems, also with noise."""

import pytest
import torch
from support.objectives import bowl, random_bowls
from support.scanners import FOUR_BINS, SIX_BINS, scanner
from torch.autograd import gradcheck
from torch.func import functional_call

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.response.simple import Gaussian
from pcctlearn.solvers.implicit import implicit_minimum, implicit_tangent
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds, Quadratic, Solution

TRUTH = {"water": 8.0, "calcium": 0.5, "iodine": 0.03, "gadolinium": 0.04}
SCANNERS = {
    1: (["water"], [15.0, 50.0, 120.0]),
    2: (["water", "calcium"], FOUR_BINS),
    3: (["water", "iodine", "gadolinium"], SIX_BINS),
}


class Problem:
    """Noisy counts of five rays through two detector pixels, decomposed with anything changed.

    Counts, fluence, attenuation and response enter as relative changes, so that every derivative
    is of the order of the line integrals, and no tolerance hides it.
    """

    def __init__(self, n_materials: int, pixels: int | None = None, photons: float = 1e6) -> None:
        materials, edges_keV = SCANNERS[n_materials]
        generator = torch.Generator().manual_seed(1)
        response = Gaussian(2.0, 0.02, learn=True)
        self.model = scanner(materials, edges_keV, photons, response, every=5, n_pixels=pixels)
        self.model.thresholds.learn[:] = True
        self.names = [name for name, _ in response.named_parameters(prefix="response")]
        truth = torch.tensor([TRUTH[m] for m in materials])
        rays = truth * (0.5 + torch.rand(5, pixels or 1, n_materials, generator=generator))
        self.counts = draw_counts(self.model(rays).detach(), generator)
        self.start = rays
        self.inputs = {
            "counts": torch.zeros_like(self.counts),
            "fluence": torch.zeros_like(self.model.fluence),
            "attenuation": torch.zeros_like(self.model.attenuation),
            "edges": self.model.thresholds.edges_keV.detach().clone(),
            "response": torch.zeros(len(self.names)),
        }

    def solve(self, bounds=None, **changed) -> Solution:
        given = self.inputs | changed
        state = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        replaced = {
            "fluence": self.model.fluence * (1 + given["fluence"]),
            "thresholds.edges_keV": given["edges"],
        }
        for name, change in zip(self.names, given["response"], strict=True):
            replaced[name] = state[name].detach() * (1 + change)
        spectra = functional_call(
            _Spectra(self.model), {f"model.{k}": v for k, v in replaced.items()}
        )
        attenuation = self.model.attenuation * (1 + given["attenuation"])
        counts = self.counts * (1 + given["counts"])
        return decompose(counts, spectra, attenuation, start=self.start, bounds=bounds)


class _Spectra(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self):
        return self.model.spectra()


@pytest.mark.parametrize("pixels", [None, 2], ids=["shared", "per pixel"])
@pytest.mark.parametrize("name", ["counts", "edges", "fluence", "response", "attenuation"])
@pytest.mark.parametrize("n_materials", [1, 2, 3])
def test_gradient_at_noisy_counts(n_materials, name, pixels):
    problem = Problem(n_materials, pixels)
    assert problem.solve().converged.all()
    values = problem.inputs[name].requires_grad_()

    def solved(values):
        return problem.solve(**{name: values}).x

    (gradient,) = torch.autograd.grad(solved(values).sum(), values)
    assert gradient.abs().max() > 5e-3
    assert gradcheck(solved, values, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_gradient_in_all_inputs_together():
    problem = Problem(2)
    names = ["counts", "edges", "fluence", "attenuation", "response"]
    values = tuple(problem.inputs[name].requires_grad_() for name in names)
    assert gradcheck(
        lambda *v: problem.solve(**dict(zip(names, v, strict=True))).x,
        values,
        eps=1e-6,
        atol=1e-5,
        fast_mode=True,
    )


@pytest.mark.parametrize("name", ["counts", "edges", "fluence", "attenuation"])
def test_on_an_active_bound_only_free_unknowns_have_a_derivative(name):
    problem = Problem(2)
    box = ((-5.0, 0.0), (30.0, 0.5))  # some rays have more calcium
    solution = problem.solve(box)
    clamped = solution.x[..., 1] == 0.5
    assert clamped.any()
    assert not clamped.all()
    assert solution.converged.all()
    values = problem.inputs[name].requires_grad_()
    assert gradcheck(
        lambda v: problem.solve(box, **{name: v}).x, values, eps=1e-6, atol=1e-5, rtol=1e-4
    )
    water, calcium = problem.solve(box, **{name: values}).x[clamped].T
    (held,) = torch.autograd.grad(calcium.sum(), values, retain_graph=True)
    (moved,) = torch.autograd.grad(water.sum(), values)
    assert (held == 0).all()
    assert moved.abs().max() > 1e-2


@pytest.mark.parametrize(("photons", "gap"), [(3e4, 1e-3), (3e3, 5e-3)])
def test_at_few_counts_the_fisher_matrix_gives_a_wrong_gradient(photons, gap):
    problem = Problem(2, photons=photons)
    spectra, attenuation = problem.model.spectra().detach(), problem.model.attenuation
    counts = problem.counts[:, 0].requires_grad_()
    start = problem.start[:, 0]

    def solve(counts):
        return decompose(counts, spectra, attenuation, start=start)

    x, converged = solve(counts)
    assert converged.all()
    (gradient,) = torch.autograd.grad(x[:, 0].sum(), counts)
    h = 1e-4
    differences = torch.stack(
        [
            (solve(counts.detach() + side).x - solve(counts.detach() - side).x)[:, 0] / (2 * h)
            for side in h * torch.eye(4)
        ],
        -1,
    )
    torch.testing.assert_close(gradient, differences, rtol=1e-5, atol=1e-8)
    # the same formula with the Fisher matrix instead of the Hessian
    mean = torch.exp(-x.detach() @ attenuation) @ spectra.mT
    slope = -torch.einsum(
        "re,be,me->rbm", torch.exp(-x.detach() @ attenuation), spectra, attenuation
    )
    fisher = torch.einsum("rbk,rbm,rb->rkm", slope, slope, 1 / mean)
    approximate = torch.linalg.solve(fisher, (slope / mean[..., None]).mT)[:, 0]
    relative = (approximate - differences).norm(dim=-1) / differences.norm(dim=-1)
    assert relative.median() > gap


def test_a_ray_that_did_not_converge_passes_no_gradient():
    problem = Problem(2)
    counts = problem.counts.clone()
    counts[1] = 0  # no finite minimum
    counts.requires_grad_()
    edges = problem.inputs["edges"].requires_grad_()
    spectra = problem.model.spectra(edges)
    attenuation = problem.model.attenuation.clone().requires_grad_()
    x, converged = decompose(counts, spectra, attenuation, start=problem.start)
    assert converged[:, 0].tolist() == [True, False, True, True, True]
    assert x.isfinite().all()
    everything = torch.autograd.grad(x.sum(), (counts, edges, attenuation), retain_graph=True)
    assert (everything[0][1] == 0).all()
    assert (everything[0][[0, 2, 3, 4]] != 0).all()
    for shared, without in zip(
        everything,
        torch.autograd.grad(x[converged].sum(), (counts, edges, attenuation)),
        strict=True,
    ):
        assert shared.isfinite().all()
        torch.testing.assert_close(shared, without)


def test_a_nan_cotangent_at_an_unsolved_ray_has_no_effect():
    matrix, center = random_bowls(3, 2)
    matrix[1] = torch.tensor([[1.0, 1.0], [1.0, 1.0]])  # singular: no unique minimum
    shared = torch.ones(2, requires_grad=True)

    def objective(x, shared, *, exact=True):
        return bowl(matrix, center * shared)(x)

    x, converged = implicit_minimum(objective, DampedNewton(), torch.zeros(3, 2), (shared,))
    assert converged[[0, 2]].all()
    (gradient,) = torch.autograd.grad(
        x, shared, torch.tensor([1.0, torch.nan, 1.0])[:, None].expand(3, 2)
    )
    torch.testing.assert_close(gradient, center[[0, 2]].sum(0))


def test_a_hessian_that_is_not_positive_definite_passes_no_gradient():
    def saddle(x, theta, *, exact=True):
        gradient = torch.stack([x[..., 0] - theta, theta - x[..., 1]], -1)
        hessian = torch.diag(torch.tensor([1.0, -1.0])).expand(*x.shape, 2)
        return Quadratic(0 * x[..., 0], gradient, hessian, 0 * x[..., 0])

    def claims_to_have_solved(objective, start, theta, bounds):
        return Solution(start, torch.ones(len(start), dtype=torch.bool))

    theta = torch.tensor(1.0, requires_grad=True)
    x, _ = implicit_minimum(saddle, claims_to_have_solved, torch.ones(3, 2), (theta,))
    x.sum().backward()
    assert theta.grad == 0


def test_the_gradient_is_independent_of_the_start():
    matrix, center = random_bowls(3, 2)
    start = torch.zeros(3, 2, requires_grad=True)
    theta = center.clone().requires_grad_()

    def objective(x, theta, *, exact=True):
        return bowl(matrix, theta)(x)

    x, _ = implicit_minimum(objective, DampedNewton(), start, (theta,))
    gradient, none = torch.autograd.grad(x.sum(), (theta, start), allow_unused=True)
    torch.testing.assert_close(gradient, torch.ones_like(theta))
    assert none is None


def test_tangent_is_the_central_difference_and_the_transpose_of_the_gradient():
    problem = Problem(3)
    attenuation, spectra = problem.model.attenuation, problem.model.spectra().detach()
    counts, start = problem.counts[:, 0], problem.start[:, 0]
    generator = torch.Generator().manual_seed(2)
    theta = (counts, spectra, attenuation)
    direction = tuple(t * torch.rand(t.shape, generator=generator) for t in theta)

    def solve(*theta):
        return decompose(*theta, start=start)

    leaves = tuple(t.clone().requires_grad_() for t in theta)
    x, converged = solve(*leaves)
    assert converged.all()
    tangent = implicit_tangent(poisson_likelihood, x.detach(), theta, direction)
    h = 1e-5
    ahead, behind = (
        solve(*(t + side * d for t, d in zip(theta, direction, strict=True))).x for side in (h, -h)
    )
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-6)
    cotangent = torch.rand(x.shape, generator=generator)
    gradients = torch.autograd.grad(x, leaves, cotangent)
    along = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    torch.testing.assert_close(along, (tangent * cotangent).sum())


def test_single_precision_agrees_with_double():
    problem = Problem(2)
    spectra = problem.model.spectra().detach()
    results = []
    for dtype in (torch.float32, torch.float64):
        theta = [
            t.to(dtype).requires_grad_()
            for t in (problem.counts[:, 0], spectra, problem.model.attenuation)
        ]
        x, converged = decompose(*theta, start=problem.start[:, 0].to(dtype))
        assert converged.all()
        gradients = torch.autograd.grad(x[:, 0].sum(), theta)
        assert all(g.dtype == dtype for g in gradients)
        # per relative change: spectra below √tiny, which depends on the precision, are set to zero
        relative = (g.double() * t.detach() for g, t in zip(gradients, theta, strict=True))
        results.append([x.double(), *relative])
    for single, double in zip(*results, strict=True):
        assert (single - double).norm() <= 1e-4 * double.norm()


def test_the_bounds_reach_the_solver():
    matrix, center = random_bowls(8, 2)
    box = Bounds(torch.full((2,), -0.1), torch.full((2,), 0.1))
    x, _ = implicit_minimum(bowl(matrix, center), DampedNewton(), center, bounds=box)
    assert (x.abs() <= 0.1).all()
    assert (x.abs() == 0.1).any()
