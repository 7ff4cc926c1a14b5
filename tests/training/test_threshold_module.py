"""Thresholds fitted by Lightning with torch optimizers, or by Gauss–Newton."""

from functools import partial

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from support.studies import phantom_problem, quiet_trainer, slab_problem, squares

from pcctlearn.calibration.gauss_newton import GaussNewton
from pcctlearn.decomposition.linearised import LinearisedDecomposition
from pcctlearn.decomposition.lookup import LookupDecomposition
from pcctlearn.training.threshold_module import ThresholdModule, fit_thresholds

LBFGS = partial(torch.optim.LBFGS, max_iter=20, line_search_fn="strong_wolfe")
ADAM = partial(torch.optim.Adam, lr=0.05)
SGD = torch.optim.SGD


def fit(problem, optimizer, max_steps, trainer=None, **options):
    chain, target, true_edges = problem
    trainer = trainer or quiet_trainer()
    loss = squares("line_integrals")
    found = fit_thresholds(chain, target, loss, optimizer, trainer, max_steps, **options)
    return found, (found.edges_keV - true_edges)[:, chain.decompose.model.thresholds.learn]


@pytest.mark.parametrize(
    ("optimizer", "max_steps", "max_error_keV"),
    [(GaussNewton(), 12, 1e-3), (LBFGS, 12, 2e-2), (ADAM, 80, 0.25)],
    ids=["gauss_newton", "lbfgs", "adam"],
)
def test_slabs(optimizer, max_steps, max_error_keV):
    found, error = fit(slab_problem(), optimizer, max_steps)
    assert error.abs().max() < max_error_keV
    assert found.history[-1].loss < 1e-2 * found.history[0].loss
    assert found.edges_keV[0, -1] == 120.0
    assert len(found.history) <= max_steps


@pytest.mark.parametrize("layer", [LookupDecomposition, LinearisedDecomposition])
def test_slabs_through_a_closed_form(layer):
    """The remedy of the error that Gauss–Newton raises for it."""
    chain, target, true_edges = slab_problem()
    chain.decompose = layer(chain.decompose.model, range_g_cm2={"water": 40.0, "calcium": 6.0})
    _, error = fit((chain, target, true_edges), LBFGS, 12)
    assert error.abs().max() < 2e-2


def test_columns_in_air_keep_their_thresholds():
    chain, target, true_edges = phantom_problem(columns=(0, 7))
    before = chain.decompose.model.thresholds.edges_keV.detach().clone()
    found, _ = fit((chain, target, true_edges), ADAM, 2)
    assert torch.equal(found.edges_keV[~found.observable], before[~found.observable])
    assert not torch.equal(found.edges_keV[7], before[7])


def test_it_stops_at_the_tolerance():
    found, _ = fit(slab_problem(), ADAM, 50, step_tolerance_keV=0.1)
    assert found.converged
    assert len(found.history) == 1  # the first step of Adam is its learning rate, 0.05 keV


@pytest.mark.parametrize("optimizer", [GaussNewton(), ADAM], ids=["gauss_newton", "adam"])
def test_the_loss_of_each_step_is_logged(tmp_path, optimizer):
    logger = CSVLogger(tmp_path, name="csv")
    trainer = quiet_trainer(logger=logger, log_every_n_steps=1)
    found, _ = fit(slab_problem(), optimizer, 3, trainer)
    logger.save()
    rows = (tmp_path / "csv/version_0/metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    losses = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert losses == pytest.approx([iterate.loss for iterate in found.history])


def test_a_checkpoint_has_the_fitted_thresholds_and_only_tensors(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    trainer = quiet_trainer(enable_checkpointing=True, callbacks=[keep])
    found, _ = fit(slab_problem(), ADAM, 2, trainer=trainer)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    chain, _, _ = slab_problem()
    again = ThresholdModule(chain, squares("line_integrals"), ADAM)
    again.load_state_dict(state)
    assert torch.equal(again.thresholds.edges_keV, found.edges_keV)


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_divergence_names_the_thresholds_and_the_rate(rate):
    with pytest.raises(FloatingPointError, match=r"pixel 0 .*lr, which is 1000|lr.*1e\+30"):
        fit(slab_problem(), partial(torch.optim.Adam, lr=rate), 9)
