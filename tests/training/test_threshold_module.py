"""Thresholds come right through the layer, for any optimiser, where the scan determines them."""

from functools import partial

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from scanners import scanner
from studies import likelihood, phantom_problem, quiet_trainer, slab_problem, squares

from pcctlearn.calibration.gauss_newton import GaussNewton
from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.experiments.calibration import fit
from pcctlearn.losses.stage import StageLoss, TotalLoss
from pcctlearn.training.threshold_module import ThresholdModule

LBFGS = partial(torch.optim.LBFGS, max_iter=20, line_search_fn="strong_wolfe")
ADAM = partial(torch.optim.Adam, lr=0.05)


def calibrate(problem, loss, optimizer, max_steps, trainer=None, **options):
    chain, target, true_edges = problem
    module = ThresholdModule(chain, loss, optimizer, true_edges_keV=true_edges, **options)
    fit(trainer or quiet_trainer(), module, target, max_steps)
    error = (module.thresholds.edges_keV - true_edges)[:, module.thresholds.learn]
    return module, error.detach()


@pytest.mark.parametrize(
    ("optimizer", "max_steps", "within_keV"),
    [(GaussNewton(), 12, 1e-3), (LBFGS, 12, 2e-2), (ADAM, 80, 0.25)],
    ids=["gauss_newton", "lbfgs", "adam"],
)
def test_slabs(optimizer, max_steps, within_keV):
    module, error = calibrate(slab_problem(), squares("line_integrals"), optimizer, max_steps)
    assert error.abs().max() < within_keV
    assert module.history[-1]["loss"] < 1e-2 * module.history[0]["loss"]
    assert module.history[0]["threshold_error_max_keV"] == pytest.approx(0.5)


@pytest.mark.parametrize("loss", [squares("maps"), squares("line_integrals")])
def test_two_columns_of_a_phantom(loss):
    module, error = calibrate(phantom_problem(), loss, GaussNewton(), 12)
    assert error[module.observable].abs().max() < 5e-3
    assert module.observable[[7, 15]].all()


def test_columns_in_air_keep_their_thresholds():
    chain, target, true_edges = phantom_problem(columns=(0, 7, 23))
    before = chain.decompose.model.thresholds.edges_keV.detach().clone()
    module, error = calibrate((chain, target, true_edges), squares("maps"), GaussNewton(), 8)
    unseen = ~module.observable
    assert unseen[[0, 23]].all()
    assert not unseen[7]
    assert torch.equal(module.thresholds.edges_keV[unseen], before[unseen])
    assert error[7].abs().max() < 2e-2


def test_columns_in_air_keep_their_thresholds_with_any_optimiser():
    chain, target, true_edges = phantom_problem(columns=(0, 7))
    before = chain.decompose.model.thresholds.edges_keV.detach().clone()
    module, _ = calibrate((chain, target, true_edges), squares("line_integrals"), ADAM, 2)
    assert torch.equal(module.thresholds.edges_keV[~module.observable], before[~module.observable])
    assert not torch.equal(module.thresholds.edges_keV[7], before[7])


def test_the_top_edge_never_moves():
    module, _ = calibrate(slab_problem(), squares("line_integrals"), GaussNewton(), 3)
    assert module.thresholds.edges_keV[0, -1] == 120.0


def test_terms_of_several_stages_add_up():
    """Their curvatures as well: the steps stay as long as those of one term."""
    both = TotalLoss({**squares("maps").terms, **squares("line_integrals").terms})
    module, error = calibrate(phantom_problem(), both, GaussNewton(), 12)
    assert error[module.observable].abs().max() < 5e-3


def test_the_likelihood_needs_no_more_steps_than_squares():
    module, error = calibrate(slab_problem(), likelihood(), GaussNewton(), 12)
    assert error.abs().max() < 1e-3
    assert len(module.history) < 12  # stopped by step_tolerance_keV


def test_a_checkpoint_holds_what_was_learned_and_nothing_but_tensors(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path, save_last=True)  # as conf/trainer has it
    trainer = quiet_trainer(enable_checkpointing=True, callbacks=[keep])
    module, _ = calibrate(
        slab_problem(), squares("line_integrals"), GaussNewton(), 2, trainer=trainer
    )
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    chain, _, _ = slab_problem()
    again = ThresholdModule(chain, squares("line_integrals"), GaussNewton())
    again.load_state_dict(state)
    assert torch.equal(again.thresholds.edges_keV, module.thresholds.edges_keV)


def test_what_it_cannot_do_is_told():
    chain, target, true_edges = slab_problem()
    shared = Chain(MaximumLikelihood(scanner(every=4)))
    with pytest.raises(ValueError, match="thresholds are learned per pixel"):
        ThresholdModule(shared, squares("line_integrals"), GaussNewton())
    absolute = TotalLoss({"A": StageLoss("line_integrals", torch.nn.L1Loss())})
    with pytest.raises(ValueError, match="needs squares or likelihoods"):
        calibrate((chain, target, true_edges), absolute, GaussNewton(), 1)
    with pytest.raises(ValueError, match=r"of no pixel: .*within_keV=1e-09"):
        calibrate(
            (chain, target, true_edges),
            squares("line_integrals"),
            GaussNewton(),
            1,
            within_keV=1e-9,
        )


def test_a_reconstruction_without_a_transpose_is_refused():
    chain, target, _ = phantom_problem()
    chain.reconstruct = torch.nn.Identity()
    module = ThresholdModule(chain, squares("maps"), GaussNewton())
    jacobian = torch.zeros(20, 24, 2, 5)  # view, pixel, material, edge
    with pytest.raises(ValueError, match='truncation="cosine"'):
        module._curvature(target.at("line_integrals")[0].movedim(0, -1), jacobian, target)
