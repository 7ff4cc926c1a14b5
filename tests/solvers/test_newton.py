"""Newton's method: one step for a quadratic, exact bounds, independent rays."""

from itertools import product

import pytest
import torch
from scipy.optimize import lsq_linear, minimize
from support.objectives import bowl, random_bowls, valley
from support.scanners import scanner

from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.physics.noise import draw_counts
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds, Quadratic, of_rays

BOX = Bounds(torch.tensor([-1.0, 0.0, -0.5]), torch.tensor([1.0, 2.0, 0.5]))


def likelihood(n_rays=40, photons=1e4):
    """Noisy counts behind water and calcium: the objective, and the true line integrals."""
    model, generator = scanner(photons=photons, every=4), torch.Generator().manual_seed(1)
    spectra, attenuation = model.spectra().detach(), model.attenuation
    truth = torch.rand(n_rays, 2, generator=generator) * torch.tensor([20.0, 2.0])
    counts = draw_counts(model(truth).detach(), generator)

    def objective(x, *, exact=True):
        return poisson_likelihood(x, counts[: len(x)], spectra, attenuation, exact=exact)

    return objective, truth


@pytest.mark.parametrize("n_unknowns", [1, 2, 3])
def test_a_quadratic_takes_one_step(n_unknowns):
    matrix, center = random_bowls(30, n_unknowns)
    start = torch.zeros(30, n_unknowns)
    x, _ = DampedNewton(max_steps=1)(bowl(matrix, center), start)
    torch.testing.assert_close(x, center)
    assert DampedNewton(max_steps=2)(bowl(matrix, center), start).converged.all()


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_a_quadratic_in_a_box_is_solved_exactly(start):
    matrix, center = random_bowls(60, 3)
    x, converged = DampedNewton()(bowl(matrix, center), torch.full((60, 3), start), bounds=BOX)
    assert converged.all()
    assert ((x >= BOX.lower) & (x <= BOX.upper)).all()
    for ray in range(60):  # ½ |Lᵀ (x − c)|² with M = L Lᵀ
        root = torch.linalg.cholesky(matrix[ray]).mT
        exact = lsq_linear(root, root @ center[ray], BOX, method="bvls", tol=1e-14).x
        torch.testing.assert_close(x[ray], torch.from_numpy(exact), rtol=0, atol=1e-8)
    at_side = (x == BOX.lower) | (x == BOX.upper)
    n_at_side = at_side.sum(-1)
    assert all((n_at_side == n).any() for n in range(4))  # none, an edge, a face and a corner


def test_a_box_around_the_minimum_has_no_effect():
    matrix, center = random_bowls(30, 3)
    wide = Bounds(torch.full((3,), -torch.inf), torch.full((3,), torch.inf))
    x, _ = DampedNewton(max_steps=1)(bowl(matrix, center), torch.zeros(30, 3), bounds=wide)
    torch.testing.assert_close(x, center)


@pytest.mark.parametrize("exact", [True, False])
def test_a_likelihood_in_a_box_agrees_with_scipy(exact):
    objective, truth = likelihood()
    box = Bounds(torch.tensor([2.0, 0.5]), torch.tensor([15.0, 1.2]))
    x, converged = DampedNewton(exact=exact)(objective, torch.full_like(truth, 3.0), bounds=box)
    assert converged.all()

    def value(flat):  # one problem for scipy: rays are independent
        q = objective(torch.from_numpy(flat).reshape(truth.shape))
        return q.value.sum().item(), q.gradient.flatten().numpy()

    sides = list(zip(box.lower.tolist(), box.upper.tolist(), strict=True)) * len(truth)
    found = minimize(
        value,
        truth.clamp(*box).flatten().numpy(),
        jac=True,
        bounds=sides,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-8, "maxiter": 2000, "maxfun": 4000},
    )
    reference = torch.from_numpy(found.x).reshape(truth.shape)
    torch.testing.assert_close(x, reference, rtol=0, atol=1e-4)
    at_side = (x == box.lower) | (x == box.upper)
    assert at_side.any(0).all()
    assert not at_side.all(0).any()


@pytest.mark.parametrize("start", [[-1.2, 1.0], [0.0, 3.0], [2.0, -2.0]])
def test_a_curved_valley(start):
    x, converged = DampedNewton(max_steps=200)(valley, torch.tensor([start]))
    assert converged.all()
    torch.testing.assert_close(x, torch.ones(1, 2))


def few_photons(n_rays=12_000):
    """Counts of which some take many steps, and the arguments that all rays share."""
    model, generator = scanner(photons=2000.0, every=8), torch.Generator().manual_seed(3)
    truth = torch.rand(n_rays, 2, generator=generator) * torch.tensor([20.0, 2.0])
    counts = draw_counts(model(truth).detach(), generator)
    return counts, (model.spectra().detach(), model.attenuation)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rays_that_continue_without_the_others_reach_the_same_bits(exact, dtype):
    counts, shared = few_photons()
    theta = tuple(t.to(dtype) for t in (counts, *shared))
    start, solver = torch.ones(len(counts), 2, dtype=dtype), DampedNewton(exact=exact)
    sizes = []

    @of_rays(1)
    def counted(x, *theta, exact=True):
        sizes.append(len(x))
        return poisson_likelihood(x, *theta, exact=exact)

    def together(x, *, exact=True):  # has no rays that could be left out
        return poisson_likelihood(x, *theta, exact=exact)

    with torch.no_grad():
        x, converged = solver(counted, start, theta)
        whole = solver(together, start)
    assert torch.equal(x, whole.x)
    assert torch.equal(converged, whole.converged)
    assert len(set(sizes)) > 2
    assert min(sizes) >= 1024
    # a ray does not depend on the number of the others
    with torch.no_grad():
        half = solver(counted, start[::2], (theta[0][::2], *theta[1:]))
    assert torch.equal(half.x, x[::2])
    assert torch.equal(half.converged, converged[::2])


@pytest.mark.usefixtures("annotations_off")  # they reject one row for all rays
@pytest.mark.parametrize("n_rays", [1, 2, 3, 4, 5])
def test_rays_are_left_out_only_of_arguments_with_a_row_for_each(monkeypatch, n_rays):
    """Sizes of all axes, among them those where bins or energies are as many as rays."""
    monkeypatch.setattr("pcctlearn.solvers.newton._LEAST_RAYS", 1)
    generator = torch.Generator().manual_seed(n_rays)

    def positive(*shape):
        return 1 + 20 * torch.rand(*shape, generator=generator)

    def whole(x, *theta, exact=True):  # has no mark
        return poisson_likelihood(x, *theta, exact=exact)

    solver, n_solved = DampedNewton(max_steps=20), 0
    for n_bins, n_energies in product((2, max(n_rays, 3)), repeat=2):
        attenuation = positive(2, n_energies) / 20
        for rays, rows, pixels in (
            ((n_rays,), (n_rays,), ()),
            ((n_rays,), (1,), ()),
            ((1, n_rays), (1, n_rays), (1,)),
            ((n_rays, 1), (n_rays, 1), (n_rays,)),
            ((n_rays, 3), (n_rays, 3), (n_rays,)),
        ):
            counts, spectra = positive(*rows, n_bins), positive(*pixels, n_bins, n_energies)
            given = positive(*rays, 2) / 10, (counts, spectra, attenuation)
            with torch.no_grad():
                x, converged = solver(poisson_likelihood, *given)
                right = solver(whole, *given)
            assert torch.equal(converged, right.converged)
            torch.testing.assert_close(x[converged], right.x[converged], rtol=1e-6, atol=1e-6)
            n_solved += int(converged.sum())
    assert n_solved > 10 * n_rays


@pytest.mark.parametrize("axis", [0, 1])
def test_a_shared_argument_with_an_axis_of_rays_keeps_them_together(axis):
    counts, shared = few_photons()
    weights = torch.linspace(0.5, 2, len(counts))[:, None].movedim(0, axis)

    @of_rays(1)
    def marked(x, counts, weights, *theta, exact=True):
        likelihood = poisson_likelihood(x, counts, *theta, exact=exact)
        each = weights.flatten()
        value, slope = each * likelihood.value, each[:, None] * likelihood.gradient
        # a rounding error for all rays
        bent, rounding = each[:, None, None] * likelihood.hessian, likelihood.rounding.amax()
        return Quadratic(value, slope, bent, rounding)

    def whole(*arguments, exact=True):
        return marked(*arguments, exact=exact)

    given = torch.ones(len(counts), 2), (counts, weights, *shared)
    with torch.no_grad():
        x, converged = DampedNewton()(marked, *given)
        right = DampedNewton()(whole, *given)
    assert torch.equal(x, right.x)
    assert torch.equal(converged, right.converged)


def test_one_rounding_error_may_hold_for_all_rays():
    counts, shared = few_photons()
    sizes = []

    @of_rays(1)
    def rough(x, *theta, exact=True):
        sizes.append(len(x))
        likelihood = poisson_likelihood(x, *theta, exact=exact)
        return likelihood._replace(rounding=torch.tensor([1e-12]))

    with torch.no_grad():
        _, converged = DampedNewton()(rough, torch.ones(len(counts), 2), (counts, *shared))
    assert len(set(sizes)) > 2
    assert converged.double().mean() > 0.9


def test_steps_that_autograd_differentiates_keep_all_rays():
    counts, shared = few_photons(3000)
    counts.requires_grad_()
    sizes = []

    @of_rays(1)
    def counted(x, *theta, exact=True):
        sizes.append(len(x))
        return poisson_likelihood(x, *theta, exact=exact)

    x, _ = DampedNewton(max_steps=12)(counted, torch.ones(3000, 2), (counts, *shared))
    assert set(sizes) == {3000}
    assert x.requires_grad


def test_unsolved_rays_are_marked():
    start = torch.tensor([[-1.2, 1.0], [1.0, 1.0]])
    x, converged = DampedNewton(max_steps=3)(valley, start)
    assert converged.tolist() == [False, True]
    assert (valley(x).value <= valley(start).value).all()


def test_an_endless_slope_is_not_solved():
    def slope(x, *, exact=True):
        return Quadratic(
            x.sum(-1), torch.ones_like(x), torch.zeros(*x.shape, x.shape[-1]), 0 * x[..., 0]
        )

    x, converged = DampedNewton()(slope, torch.zeros(4, 2))
    assert not converged.any()
    assert x.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_ray_that_is_not_finite_keeps_its_start(bad):
    matrix, center = random_bowls(3, 2)
    center[1] = bad
    start = torch.ones(3, 2)
    x, converged = DampedNewton()(bowl(matrix, center), start)
    assert converged.tolist() == [True, False, True]
    assert torch.equal(x[1], start[1])


@pytest.mark.parametrize("bounds", [None, Bounds(torch.zeros(2), torch.full((2,), 100.0))])
def test_a_ray_without_a_minimum_does_not_affect_its_batch(bounds):
    model = scanner(every=4)
    spectra, attenuation = model.spectra().detach(), model.attenuation
    truth = torch.tensor([[5.0, 0.5], [20.0, 1.0], [10.0, 0.2]])
    counts = draw_counts(model(truth).detach(), torch.Generator().manual_seed(1))
    start = torch.full((3, 2), 2.0)

    def solve(counts):
        return DampedNewton()(
            lambda x, exact=True: poisson_likelihood(x, counts, spectra, attenuation, exact=exact),
            start,
            bounds=bounds,
        )

    calm = solve(counts)
    assert calm.converged.all()
    for hopeless in (0.0, torch.nan, 1e30):
        disturbed = counts.clone()
        disturbed[1] = hopeless
        x, converged = solve(disturbed)
        assert torch.equal(x[[0, 2]], calm.x[[0, 2]])
        assert converged[[0, 2]].all()
        assert x[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_kept(dtype):
    matrix, center = (t.to(dtype) for t in random_bowls(30, 2))
    x, converged = DampedNewton()(bowl(matrix, center), torch.zeros(30, 2, dtype=dtype))
    assert x.dtype == dtype
    assert converged.all()


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"max_steps": 0}])
def test_impossible_settings_raise_an_error(options):
    with pytest.raises(ValueError, match="tolerance and max_steps"):
        DampedNewton(**options)
