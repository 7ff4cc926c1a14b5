"""Decomposition: round trips, masks, bounds, efficiency, and the layer."""

import logging

import pytest
import torch
from support.scanners import FOUR_BINS, SIX_BINS, scanner

from pcctlearn.decomposition import pieces
from pcctlearn.decomposition.maximum_likelihood import (
    MaximumLikelihood,
    compare_starts,
    decompose,
)
from pcctlearn.decomposition.minima import WARM_START
from pcctlearn.decomposition.sensitivity import cramer_rao_bound
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.physics.noise import draw_counts
from pcctlearn.solvers.nelder_mead import NelderMead
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds

FULL_SCALE = {"water": 20.0, "calcium": 1.5, "iodine": 0.05, "gadolinium": 0.05}
SCANNERS = {
    1: (["water"], [15.0, 50.0, 120.0]),
    2: (["water", "calcium"], FOUR_BINS),
    3: (["water", "iodine", "gadolinium"], SIX_BINS),
}


def problem(n_materials=2, shape=(30,), n_pixels=None, noisy=False, photons=1e6, every=4):
    """Counts, spectra, attenuation and truth; ``n_pixels`` gives each pixel its own edges."""
    materials, edges_keV = SCANNERS[n_materials]
    model = scanner(materials, edges_keV, photons, every=every, n_pixels=n_pixels)
    generator = torch.Generator().manual_seed(1)
    if n_pixels is not None:
        edges = model.thresholds.edges_keV.detach()
        model.thresholds.assign(edges + torch.rand(n_pixels, 1, generator=generator) - 0.5)
    truth = torch.rand(*shape, n_materials, generator=generator)
    truth = truth * torch.tensor([FULL_SCALE[m] for m in materials])
    counts = model(truth).detach()
    if noisy:
        counts = draw_counts(counts, generator)
    return counts, model.spectra().detach(), model.attenuation, truth


def small_pieces(monkeypatch, size=7):
    monkeypatch.setattr(pieces, "PIECE", size)


@pytest.mark.parametrize("n_materials", [1, 2, 3])
@pytest.mark.parametrize("n_pixels", [None, 4], ids=["shared", "per pixel"])
def test_round_trip(n_materials, n_pixels):
    counts, spectra, attenuation, truth = problem(n_materials, (20, 4), n_pixels)
    x, converged = decompose(counts, spectra, attenuation)
    assert converged.all()
    torch.testing.assert_close(x, truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n_pixels", [None, 4], ids=["shared", "per pixel"])
def test_round_trip_in_single_precision(n_pixels):
    counts, spectra, attenuation, truth = problem(2, (20, 4), n_pixels)
    x, converged = decompose(counts.float(), spectra.float(), attenuation.float())
    assert x.dtype == torch.float32
    assert converged.all()
    torch.testing.assert_close(x.double(), truth, rtol=0, atol=1e-4)


def test_any_number_of_ray_axes():
    counts, spectra, attenuation, _ = problem(noisy=True)
    flat = decompose(counts, spectra, attenuation)
    for shape in [(30,), (5, 6), (2, 3, 5), (30, 1), (1, 1, 30)]:
        x, converged = decompose(counts.reshape(*shape, 4), spectra, attenuation)
        assert converged.shape == shape
        torch.testing.assert_close(x.reshape(30, 2), flat.x)
    one = decompose(counts[3], spectra, attenuation)
    assert one.converged.shape == ()
    torch.testing.assert_close(one.x, flat.x[3])
    none = decompose(counts[:0], spectra, attenuation)
    assert none.x.shape == (0, 2)


def test_one_spectrum_for_each_column_equals_a_loop_over_columns():
    counts, spectra, attenuation, _ = problem(shape=(2, 9, 5), n_pixels=5, noisy=True)
    x, converged = decompose(counts, spectra, attenuation)
    assert converged.all()
    columns = [decompose(counts[..., c, :], spectra[c], attenuation).x for c in range(5)]
    torch.testing.assert_close(x, torch.stack(columns, -2))


@pytest.mark.parametrize("axes", [(6, 4), (6, 1), (1, 4)])
def test_spectra_of_rows_columns_and_rays(axes):
    shape = torch.Size((6, 4))
    counts, spectra, attenuation, _ = problem(shape=(24,), n_pixels=24, noisy=True)
    counts, spectra = counts.reshape(*shape, 4), spectra.reshape(*shape, *spectra.shape[-2:])
    spectra = spectra[: axes[0], : axes[1]]
    own = spectra.expand(*shape, -1, -1).flatten(0, 1)
    x, _ = decompose(counts, spectra, attenuation)
    one_by_one = [
        decompose(n[None], S, attenuation).x[0]
        for n, S in zip(counts.flatten(0, 1), own, strict=True)
    ]
    torch.testing.assert_close(x, torch.stack(one_by_one).reshape(*shape, 2))


@pytest.mark.parametrize("n_pixels", [None, 3, 24], ids=["shared", "per column", "per ray"])
def test_the_size_of_pieces_has_no_effect_on_the_result_or_its_gradient(n_pixels, monkeypatch):
    shape = (24,) if n_pixels == 24 else (4, 2, 3)
    theta = problem(shape=shape, n_pixels=n_pixels, noisy=True)[:3]

    def solve():
        leaves = [t.clone().requires_grad_() for t in theta]
        x, converged = decompose(*leaves)
        assert converged.all()
        weights = torch.arange(1.0, x.numel() + 1).reshape(x.shape)
        return [x, *torch.autograd.grad(x, leaves, weights)]

    whole = solve()
    small_pieces(monkeypatch)
    for split, one in zip(solve(), whole, strict=True):
        torch.testing.assert_close(split, one, rtol=1e-6, atol=1e-9 * one.abs().max().item())


@pytest.mark.parametrize("n_pixels", [None, 30], ids=["shared", "per ray"])
@pytest.mark.parametrize("hopeless", [[0.0] * 4, [1e12] * 4, [0.0, 0.0, 0.0, 1.0], [1.0, 0, 0, 0]])
@pytest.mark.parametrize("bounds", [None, ((-5.0, -5.0), (40.0, 10.0))])
def test_a_ray_without_a_minimum_is_finite_and_does_not_affect_others(n_pixels, hopeless, bounds):
    counts, spectra, attenuation, _ = problem(n_pixels=n_pixels, noisy=True)
    calm = decompose(counts, spectra, attenuation, bounds=bounds)
    assert calm.converged.all()
    counts[7] = torch.tensor(hopeless)
    x, converged = decompose(counts, spectra, attenuation, bounds=bounds)
    others = torch.arange(30) != 7
    # rays that continue with it share its matrix products, and may differ in the last bit
    torch.testing.assert_close(x[others], calm.x[others], rtol=0, atol=1e-12)
    assert converged[others].all()
    assert x[7].isfinite().all()
    if sum(hopeless) == 0:
        assert not converged[7]
    if bounds is not None:
        assert (x[7] >= torch.tensor(bounds[0])).all()
        assert (x[7] <= torch.tensor(bounds[1])).all()


def test_far_more_counts_than_air_lie_on_a_limit():
    _, spectra, attenuation, _ = problem()
    box = Bounds(torch.tensor([-5.0, -5.0]), torch.tensor([30.0, 10.0]))
    air = spectra.sum(-1)
    x, converged = decompose(1e6 * air.expand(3, 4), spectra, attenuation, bounds=box)
    assert converged.all()
    assert ((x == box.lower) | (x == box.upper)).any(-1).all()


def test_a_batch_with_zero_counts():
    counts, spectra, attenuation, _ = problem()
    x, converged = decompose(0 * counts, spectra, attenuation)
    assert not converged.any()
    assert x.isfinite().all()


@pytest.mark.physics
@pytest.mark.parametrize(("n_materials", "tolerance"), [(1, 0.04), (2, 0.05), (3, 0.06)])
def test_variance_reaches_the_cramer_rao_bound(n_materials, tolerance):
    n_rays = 20_000  # a standard error of 1 % in a variance
    materials, edges_keV = SCANNERS[n_materials]
    model = scanner(materials, edges_keV, 1e7, every=4)
    spectra, attenuation = model.spectra().detach(), model.attenuation
    truth = 0.5 * torch.tensor([FULL_SCALE[m] for m in materials])
    mean = model(truth).detach()
    counts = draw_counts(mean.expand(n_rays, -1), torch.Generator().manual_seed(1))
    x, converged = decompose(counts, spectra, attenuation)
    assert converged.all()
    bound = cramer_rao_bound(truth, spectra, attenuation)
    whiten = torch.linalg.inv(torch.linalg.cholesky(bound))
    covariance = whiten @ x.mT.cov().reshape(n_materials, n_materials) @ whiten.mT
    torch.testing.assert_close(covariance, torch.eye(n_materials), rtol=0, atol=tolerance)
    bias = (whiten @ (x.mean(0) - truth)) * n_rays**0.5
    assert (bias.abs() < 5).all()


@pytest.mark.parametrize(
    "solver",
    [DampedNewton(exact=False), DampedNewton(tolerance=1e-6, max_steps=4), NelderMead()],
    ids=["scoring", "few steps", "simplex"],
)
@pytest.mark.parametrize("warm_start", [WARM_START, WARM_START[1:], ()])
def test_any_solver_reaches_the_minimum(solver, warm_start):
    counts, spectra, attenuation, _ = problem(noisy=True)
    reference = decompose(counts, spectra, attenuation).x
    x, converged = decompose(counts, spectra, attenuation, solver=solver, warm_start=warm_start)
    assert converged.any()
    torch.testing.assert_close(x[converged], reference[converged], rtol=0, atol=1e-2)


def test_the_solver_gets_rays_that_the_warm_start_does_not_solve():
    counts, spectra, attenuation, _ = problem(noisy=True)
    counts[4] = torch.tensor([3.0, 0.0, 1.0, 2.0])  # few photons
    reference = decompose(counts, spectra, attenuation)
    solved = []

    def solver(objective, start, theta, bounds):
        solved.append(theta[0])
        return DampedNewton()(objective, start, theta, bounds)

    def solve(warm_start):
        solved.clear()
        return decompose(counts, spectra, attenuation, solver=solver, warm_start=warm_start)

    for first in (DampedNewton(max_steps=1), DampedNewton()):
        solution = solve([first])
        assert torch.equal(solution.converged, reference.converged)
        torch.testing.assert_close(solution.x, reference.x, rtol=0, atol=1e-6)
        assert any(torch.equal(counts[4], row) for row in solved[0])
    assert len(solved[0]) == 1
    solve(())
    assert torch.equal(solved[0], counts)


@pytest.mark.parametrize("n_pixels", [None, 30])
def test_the_start_is_an_argument(n_pixels):
    counts, spectra, attenuation, truth = problem(n_pixels=n_pixels, noisy=True)
    default = decompose(counts, spectra, attenuation).x
    for start in (truth, torch.zeros_like(truth)):
        x, converged = decompose(counts, spectra, attenuation, start=start)
        assert converged.all()
        torch.testing.assert_close(x, default, rtol=0, atol=1e-7)


def test_the_likelier_of_two_minima_is_kept():
    model = scanner(
        ("water", "calcium", "iodine"), [15.0, 25.0, 33.0, 45.0, 59.0, 80.0, 120.0], 1e5
    )
    spectra, attenuation = model.spectra().detach(), model.attenuation
    counts = torch.tensor([[67.0, 19, 7, 51, 83, 38], [22.0, 11, 1, 9, 25, 15]])
    starts = (
        torch.tensor([[16.7, 5.38, -0.279], [20.4, 5.88, -0.228]]),
        torch.tensor([[20.2, 0.0, 0.1025], [26.05, -1.02, 0.2244]]),
    )

    def value(x):
        return poisson_likelihood(x, counts, spectra, attenuation).value

    minima = [decompose(counts, spectra, attenuation, start=start) for start in starts]
    assert all(m.converged.all() for m in minima)
    assert ((minima[0].x - minima[1].x)[:, 0].abs() > 3).all()  # g/cm² of water between them
    assert (value(minima[0].x) - value(minima[1].x)).sign().tolist() == [-1.0, 1.0]
    disagreements = []
    for start, minimum in zip(starts, minima, strict=True):
        solution, disagree = compare_starts(counts, spectra, attenuation, start)
        assert solution.converged.all()
        assert (value(solution.x) <= value(minimum.x) + 1e-9).all()
        disagreements.append(disagree)
    assert (disagreements[0] | disagreements[1]).all()


def test_starts_that_agree_are_not_reported():
    counts, spectra, attenuation, truth = problem(noisy=True)
    solution, disagree = compare_starts(counts, spectra, attenuation, truth)
    assert not disagree.any()
    torch.testing.assert_close(solution.x, decompose(counts, spectra, attenuation).x)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (float("nan"), r"2 of 120 .* nan.*dead pixels"),
        (float("inf"), r"2 of 120 .* inf"),
        (-1.0, r"2 of 120 .* -1"),
    ],
)
def test_impossible_counts_raise_an_error(bad, message):
    counts, spectra, attenuation, _ = problem()
    counts[[3, 9], 1] = bad
    with pytest.raises(ValueError, match=message):
        decompose(counts, spectra, attenuation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": torch.ones(30, 3)}, "counts .*3 bins.* 4"),
        ({"attenuation": torch.ones(2, 5)}, "attenuation 5"),
        ({"attenuation": torch.ones(5, 27)}, "5 materials .* got 4"),
        ({"spectra": torch.ones(7, 4, 27)}, r"\(7,\) .*\(30,\)"),
        ({"spectra": torch.ones(30, 1, 4, 27)}, r"\(30, 1\) .*\(30,\)"),
        ({"adjoint": "backward"}, r"implicit, unrolled.*'backward'"),
        ({"bounds": ([0.0], [1.0])}, "bounds .* 2 increasing"),
        ({"bounds": ([0.0, 1.0], [1.0, 1.0])}, r"\[0\.0, 1\.0\] and \[1\.0, 1\.0\]"),
        ({"bounds": ([0.0, float("nan")], [1.0, 1.0])}, "bounds .*nan"),
    ],
)
def test_inputs_that_do_not_match_raise_an_error(change, message, annotations_off):
    counts, spectra, attenuation, _ = problem()
    given = {"counts": counts, "spectra": spectra, "attenuation": attenuation} | change
    with pytest.raises(ValueError, match=message):
        decompose(**given)


# the layer


def image(model, noisy=True):
    """Counts of (batch, bin, view, column) and the true line integrals."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(2, 6, 5, 2, generator=generator) * torch.tensor([20.0, 1.5])
    counts = model(truth).detach()
    return (draw_counts(counts, generator) if noisy else counts).movedim(-1, 1), truth


@pytest.mark.parametrize("n_pixels", [None, 5], ids=["shared", "per pixel"])
def test_the_layer_recovers_the_line_integrals(n_pixels):
    model = scanner(every=4, n_pixels=n_pixels)
    layer = MaximumLikelihood(model)
    counts, truth = image(model, noisy=False)
    x, converged = layer(counts)
    torch.testing.assert_close(x, truth.movedim(-1, 1), rtol=0, atol=1e-9)
    assert converged.shape == (2, 6, 5)
    assert converged.all()


def test_the_layer_computes_its_spectra_at_each_call():
    model = scanner(every=4)
    layer = MaximumLikelihood(model)
    counts, _ = image(model, noisy=False)
    before = layer(counts).x
    model.thresholds.assign(torch.tensor(FOUR_BINS) + 0.5)
    assert (layer(counts).x - before).abs().max() > 1e-3
    layer(counts).x.sum().backward()
    gradient = model.thresholds.edges_keV.grad
    assert (gradient[:-1] != 0).all()
    assert gradient[-1] == 0


@pytest.mark.parametrize("n_pixels", [None, 5])
def test_the_gradient_in_the_relative_counts_is_clamped(n_pixels):
    model = scanner(every=4, n_pixels=n_pixels)
    counts, _ = image(model)
    air = model.air().detach().expand(5, 4).mT[:, None]
    limit, gradients = 1.0, []
    for clamp in (None, limit):
        leaf = counts.clone().requires_grad_()
        x = MaximumLikelihood(model, gradient_clamp=clamp)(leaf).x
        (gradient,) = torch.autograd.grad(x.sum(), leaf)
        gradients.append(gradient * air)  # with respect to n/air
    free, clamped = gradients
    assert (free.abs() > limit).any()
    assert (free.abs() < limit).any()
    torch.testing.assert_close(clamped, free.clamp(-limit, limit))
    # the values do not change
    torch.testing.assert_close(
        MaximumLikelihood(model, gradient_clamp=limit)(counts).x, MaximumLikelihood(model)(counts).x
    )


def test_bounds_are_assigned_by_name():
    model = scanner(every=4)
    counts, _ = image(model)
    free = MaximumLikelihood(model)(counts).x
    layer = MaximumLikelihood(model, bounds_g_cm2={"calcium": [-1.0, 0.7]})
    inf = float("inf")
    assert layer.bounds() == [[-inf, -1.0], [inf, 0.7]]
    x, converged = layer(counts)
    assert converged.all()
    at_side = x[:, 1] == 0.7
    assert torch.equal(at_side, free[:, 1] >= 0.7)
    assert at_side.any()
    assert not at_side.all()
    torch.testing.assert_close(x[:, 0][~at_side], free[:, 0][~at_side])


def test_bounds_of_other_materials_are_ignored():
    layer = MaximumLikelihood(
        scanner(every=4), bounds_g_cm2={"iodine": [0.0, 1.0], "water": [-1.0, 9.0]}
    )
    assert layer.bounds() == [[-1.0, -float("inf")], [9.0, float("inf")]]
    with pytest.raises(ValueError, match=r"'watr'.* 'water'"):
        MaximumLikelihood(scanner(every=4), bounds_g_cm2={"watr": [0.0, 1.0]})


def test_unsolved_rays_and_rays_on_a_limit_are_logged(caplog):
    model = scanner(every=4)
    layer = MaximumLikelihood(model, bounds_g_cm2={"water": [-5.0, 30.0], "calcium": [-5.0, 0.7]})
    counts, _ = image(model, noisy=False)
    counts[0, :, 2, 3] = 0
    with caplog.at_level(logging.WARNING):
        x, converged = layer(counts)
    assert (~converged).nonzero().tolist() == [[0, 2, 3]]
    n_at_side = int(((x[:, 1] >= 0.7) | (x[:, 0] >= 30)).sum())
    assert f"1 of 60 rays were not solved, {n_at_side} lie on a limit of the box" in caplog.text


def test_solved_rays_are_not_logged(caplog):
    model = scanner(every=4)
    with caplog.at_level(logging.WARNING):
        MaximumLikelihood(model)(image(model)[0])
    assert not caplog.records


def test_single_precision_is_kept():
    model = scanner(every=4)
    counts = image(model)[0].float()
    layer = MaximumLikelihood(model, gradient_clamp=5e-4, bounds_g_cm2={"water": [-5.0, 30.0]})
    assert layer(counts).x.dtype == torch.float32
