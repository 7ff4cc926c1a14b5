"""Training of a correction through the chain, as deep as the loss requires."""

from functools import partial

import pytest
import torch
from support.chains import BEAM, FRACTION, l1, problem
from support.studies import quiet_trainer

from pcctlearn.losses.stage import StageLoss, TotalLoss
from pcctlearn.scan import Scan
from pcctlearn.scans.data_set import collate
from pcctlearn.scatter.base import ScatterCorrection
from pcctlearn.scatter.network import ScatterNetwork
from pcctlearn.training.chain_module import ChainModule, with_truth


def learned(stage, n_epochs=60):
    chain, scan, _ = problem()
    target = with_truth(collate([scan]), chain, stage)
    module = ChainModule(chain, l1(stage), partial(torch.optim.Adam, lr=0.01))
    schedule = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.95)
    module.scheduler = schedule
    held = {name: value[0] for name, value in vars(target).items() if value is not None}
    loader = torch.utils.data.DataLoader([Scan(**held)], collate_fn=collate)
    trainer = quiet_trainer(max_epochs=n_epochs)
    trainer.fit(module, loader, loader)
    return chain, trainer


@pytest.mark.parametrize("stage", ["scatter_fraction", "line_integrals", "maps"])
def test_losses_on_all_stages_find_the_fraction(stage):
    chain, _ = learned(stage)
    torch.testing.assert_close(
        chain.correct.fraction.detach(), torch.full((1,), FRACTION), rtol=0, atol=5e-3
    )


@pytest.mark.parametrize("rate", [1e30, 1e300])
def test_a_divergence_names_its_step_and_setting(rate):
    chain, scan, _ = problem()
    target = with_truth(collate([scan]), chain, "maps")
    module = ChainModule(chain, l1("maps"), partial(torch.optim.SGD, lr=rate))
    held = {name: value[0] for name, value in vars(target).items() if value is not None}
    loader = torch.utils.data.DataLoader([Scan(**held)], collate_fn=collate)
    words = r"step \d+: .*training\.optimizer\.lr"
    with pytest.raises(FloatingPointError, match=words):
        quiet_trainer(max_epochs=9).fit(module, loader)


def test_training_and_validation_are_logged():
    _, trainer = learned("scatter_fraction", 2)
    assert {"train/loss", "val/loss", "val/scatter_fraction"} <= set(trainer.callback_metrics)


def test_targets_of_deeper_stages_come_from_the_primary_counts():
    chain, scan, A = problem()
    target = with_truth(collate([scan]), chain, "maps")
    torch.testing.assert_close(target.at("line_integrals")[0].movedim(0, -1), A, atol=1e-6, rtol=0)
    expected = chain.reconstruct @ A.movedim(-1, 0)
    torch.testing.assert_close(target.at("maps")[0], expected, atol=1e-6, rtol=0)


def test_a_loss_on_counts_does_not_decompose():
    chain, scan, _ = problem()
    chain.decompose.forward = None  # calling it would raise
    module = ChainModule(chain, l1("corrected_counts"), torch.optim.Adam)
    assert module.training_step(collate([scan]), 0) > 0


def test_a_chain_without_a_correction_raises_an_error():
    chain, _, _ = problem()
    chain.correct = None
    with pytest.raises(ValueError, match=r"correction.*scatter=network"):
        ChainModule(chain, l1("maps"), torch.optim.Adam)


@pytest.mark.parametrize("stage", ["scatter_fraction", "line_integrals", "maps"])
def test_gradients_of_some_views_are_a_part_of_the_whole_gradient(stage):
    chain, scan, _ = problem()
    target = with_truth(collate([scan]), chain, stage)
    gradients, n_views = {}, target.at("counts").shape[2]
    for n in (None, 1, n_views):
        module = ChainModule(chain, l1(stage), torch.optim.Adam, n_gradient_views=n)
        chain.correct.fraction.grad = None
        loss = module._step(target, "train")
        loss.backward()
        gradients[n] = chain.correct.fraction.grad.item(), loss.item()
    assert gradients[1][1] == pytest.approx(gradients[None][1])  # all views are in the loss
    assert gradients[n_views] == gradients[None]
    assert 0 < gradients[1][0] / gradients[None][0] < 0.6


def test_running_statistics_are_those_of_the_gradient_views():
    chain, scan, _ = problem()
    chain.correct = ScatterNetwork(BEAM, chain.decompose.model, (4, 4), (2, 3))
    chain.correct.double()
    module = ChainModule(chain, l1("scatter_fraction"), torch.optim.Adam, n_gradient_views=2)
    module.train()
    module._step(collate([scan]), "train").backward()
    steps = [m.num_batches_tracked for m in chain.modules() if hasattr(m, "num_batches_tracked")]
    assert steps
    assert all(step == 1 for step in steps)
    assert chain.correct.training


def test_a_mix_of_stages_and_the_side_branch():
    chain, scan, _ = problem()
    distance = torch.nn.L1Loss()
    stages = ("expected_counts", "maps", "scatter_fraction")
    loss = TotalLoss({stage: StageLoss(stage, distance) for stage in stages})
    target = with_truth(collate([scan]), chain, loss.deepest, loss.expects)
    module = ChainModule(chain, loss, torch.optim.Adam, n_gradient_views=3)
    module._step(target, "train").backward()
    assert chain.correct.fraction.grad.abs() > 0
    with torch.no_grad():
        chain.correct.fraction.fill_(FRACTION)
    assert module._step(target, "train").item() == pytest.approx(0, abs=1e-4)


def test_zero_gradient_views_raise_an_error():
    chain, _, _ = problem()
    with pytest.raises(ValueError, match=r"training\.n_gradient_views .* 0"):
        ChainModule(chain, l1("maps"), torch.optim.Adam, n_gradient_views=0)


def test_only_the_correction_runs_in_mixed_precision():
    chain, scan, _ = problem()
    dtypes = {}

    class Layer(ScatterCorrection):
        def forward(self, counts):
            x = counts.flatten().float()
            dtypes["correct"] = (x[None, :4] @ x[:4, None]).dtype
            return torch.full_like(counts, 0.1)

    chain.correct = Layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = chain(collate([scan]).at("counts"), until="maps")
    assert dtypes["correct"] == torch.bfloat16
    torch.testing.assert_close(mixed.at("maps"), chain(mixed.at("counts"), until="maps").at("maps"))


def test_notes_are_stored_in_checkpoints():
    chain, _, _ = problem()
    module = ChainModule(chain, l1("maps"), torch.optim.Adam, notes={"correction": {"kind": "x"}})
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint == {"correction": {"kind": "x"}}
