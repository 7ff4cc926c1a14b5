"""Times of the stages of a training step."""

import torch
from support.chains import l1, problem

from pcctlearn.scans.data_set import collate
from pcctlearn.training.chain_module import with_truth
from pcctlearn.training.step_profile import step_seconds


def test_every_stage_up_to_the_loss_has_a_time():
    chain, scan, _ = problem()
    target = with_truth(collate([scan]), chain, "maps")
    parts = step_seconds(chain, l1("maps"), target, n_repeats=1)
    assert list(parts) == ["scatter_fraction", "corrected_counts", "line_integrals", "maps", "loss"]
    assert all(seconds > 0 for part in parts.values() for seconds in part.values())
    assert chain.correct.fraction.grad is None


def test_a_loss_on_counts_runs_no_deeper_stage():
    chain, scan, _ = problem()
    parts = step_seconds(chain, l1("scatter_fraction"), collate([scan]), n_repeats=1)
    assert list(parts) == ["scatter_fraction", "loss"]
    assert torch.is_grad_enabled()
