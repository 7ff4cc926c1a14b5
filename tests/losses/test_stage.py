"""Losses on stages of the chain, and their sum."""

import pytest
import torch

from pcctlearn.losses.likelihood import DevianceLoss, MisfitLoss
from pcctlearn.losses.stage import StageLoss, TotalLoss
from pcctlearn.scan import STAGES, Scan


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_compares_its_stage(stage):
    x, y = torch.rand(2, 1, 2, 3, 4)
    loss = StageLoss(stage, torch.nn.MSELoss(), weight=3.0)
    value = loss(Scan(**{stage: x}), Scan(**{stage: y}))
    torch.testing.assert_close(value, 3 * (x - y).square().mean())


def test_the_error_names_the_missing_stage():
    loss = StageLoss("maps", torch.nn.MSELoss())
    with pytest.raises(ValueError, match="no maps"):
        loss(Scan(maps=torch.rand(1)), Scan())
    with pytest.raises(ValueError, match=r"stage .*'images'"):
        StageLoss("images", torch.nn.MSELoss())
    with pytest.raises(ValueError, match="one term"):
        TotalLoss({})


@pytest.mark.parametrize(
    ("stages", "deepest"),
    [(["maps", "line_integrals"], "maps"), (["counts"], "counts"), (["vmi", "maps"], "vmi")],
)
def test_deepest(stages, deepest):
    terms = {stage: StageLoss(stage, torch.nn.MSELoss()) for stage in stages}
    assert TotalLoss(terms).deepest == deepest
    likelihoods = {"misfit": MisfitLoss(), "deviance": DevianceLoss()}
    assert TotalLoss(likelihoods).deepest == "expected_counts"


def test_each_term_keeps_its_name():
    x, y = torch.rand(2, 1, 2, 3, 4)
    total = TotalLoss(
        {
            "square": StageLoss("maps", torch.nn.MSELoss()),
            "absolute": StageLoss("maps", torch.nn.L1Loss()),
        }
    )
    values = total(Scan(maps=x), Scan(maps=y))
    torch.testing.assert_close(values["square"], (x - y).square().mean())
    torch.testing.assert_close(values["absolute"], (x - y).abs().mean())
