"""Gauss–Newton calibration of thresholds with several losses and objects."""

import pytest
import torch
from support.scanners import scanner
from support.studies import likelihood, phantom_problem, slab_problem, squares

from pcctlearn.calibration.gauss_newton import GaussNewton
from pcctlearn.calibration.thresholds import calibrate_thresholds
from pcctlearn.chain import Chain
from pcctlearn.decomposition.linearised import LinearisedDecomposition
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.losses.stage import StageLoss, TotalLoss


def calibrate(problem, loss, max_steps, **options):
    chain, target, true_edges = problem
    found = calibrate_thresholds(chain, target, loss, GaussNewton(), max_steps, **options)
    return found, (found.edges_keV - true_edges)[:, chain.decompose.model.thresholds.learn]


def test_slabs():
    steps = []
    found, error = calibrate(slab_problem(), squares("line_integrals"), 12, on_step=steps.append)
    assert error.abs().max() < 1e-3
    assert found.history[-1].loss < 1e-2 * found.history[0].loss
    assert steps == found.history
    assert found.edges_keV[0, -1] == 120.0  # without information, fixed


@pytest.mark.parametrize(
    "distance", [torch.nn.HuberLoss(delta=2.0), torch.nn.SmoothL1Loss(beta=0.5)]
)
def test_distances_with_a_second_derivative(distance):
    loss = TotalLoss({"A": StageLoss("line_integrals", distance)})
    found, error = calibrate(slab_problem(), loss, 20)
    assert error.abs().max() < 5e-3
    assert found.converged


@pytest.mark.parametrize("loss", [squares("maps"), squares("line_integrals")])
def test_two_columns_of_a_phantom(loss):
    found, error = calibrate(phantom_problem(), loss, 12)
    assert error[found.observable].abs().max() < 5e-3
    assert found.observable[[7, 15]].all()


def test_columns_in_air_keep_their_thresholds():
    chain, target, true_edges = phantom_problem(columns=(0, 7, 23))
    before = chain.decompose.model.thresholds.edges_keV.detach().clone()
    found, error = calibrate((chain, target, true_edges), squares("maps"), 8)
    unseen = ~found.observable
    assert unseen[[0, 23]].all()
    assert not unseen[7]
    assert torch.equal(found.edges_keV[unseen], before[unseen])
    assert error[7].abs().max() < 2e-2


def test_curvatures_of_several_stages_are_summed():
    """The number of steps is that of a single term."""
    both = TotalLoss({**squares("maps").terms, **squares("line_integrals").terms})
    found, error = calibrate(phantom_problem(), both, 12)
    assert error[found.observable].abs().max() < 5e-3


def test_the_likelihood_converges_in_fewer_than_12_steps():
    found, error = calibrate(slab_problem(), likelihood(), 12)
    assert error.abs().max() < 1e-3
    assert found.converged
    assert len(found.history) < 12


def test_the_chain_has_the_returned_thresholds():
    problem = slab_problem()
    found, _ = calibrate(problem, squares("line_integrals"), 3)
    assert not found.converged
    assert torch.equal(problem[0].decompose.model.thresholds.edges_keV, found.edges_keV)
    assert min(found.history).loss == pytest.approx(
        next(it.loss for it in found.history if torch.equal(it.edges_keV, found.edges_keV))
    )


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        (TotalLoss({"A": StageLoss("line_integrals", torch.nn.L1Loss())}), {}, "L1Loss"),
        (squares("expected_counts"), {}, "expected_counts"),
        (squares("maps"), {}, "losses=line_integrals"),
        (squares("line_integrals"), {"max_sd_keV": 1e-9}, r"training\.max_sd_keV=1e-09"),
    ],
)
def test_impossible_losses_raise_an_error(loss, options, words):
    with pytest.raises(ValueError, match=words):
        calibrate(slab_problem(), loss, 1, **options)


def test_shared_thresholds_raise_an_error():
    _, target, _ = slab_problem()
    shared = Chain(MaximumLikelihood(scanner(every=4)))
    with pytest.raises(ValueError, match="n_pixels"):
        calibrate_thresholds(shared, target, squares("line_integrals"), GaussNewton(), 1)


def test_another_decomposition_raises_an_error():
    chain, target, true_edges = slab_problem()
    chain.decompose = LinearisedDecomposition(chain.decompose.model)
    with pytest.raises(ValueError, match=r"LinearisedDecomposition: .* training=lbfgs"):
        calibrate((chain, target, true_edges), squares("line_integrals"), 1)


def test_a_reconstruction_without_a_transpose_raises_an_error():
    chain, target, true_edges = phantom_problem()
    F = chain.reconstruct
    chain.reconstruct = torch.nn.Sequential(F)
    with pytest.raises(ValueError, match='truncation="cosine"'):
        calibrate((chain, target, true_edges), squares("maps"), 1)
