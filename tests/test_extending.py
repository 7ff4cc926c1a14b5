"""A new part is one class and one YAML: no other file changes."""

import json
import sys

import pytest
from test_conf import composed
from test_train import FEW_SLABS

from pcctlearn.experiments.run import run

LOSS = '''
import torch
from pcctlearn.losses.stage import Loss


class LogCosh(Loss):
    """mean log cosh r of the residuals r: square where they are small."""

    stage = "line_integrals"

    def forward(self, predicted, target):
        return self.residual(predicted, target).cosh().log().mean()

    def curvature(self, at):
        r = self.residual(at.predicted, at.target)
        return at.of_stage(self.stage, 1 / r.cosh() ** 2 / r.numel())

    def residual(self, predicted, target):
        return predicted.at(self.stage) - target.at(self.stage)
'''
LOSS_YAML = """
_target_: pcctlearn.losses.stage.TotalLoss
terms:
  line_integrals: {_target_: toy.LogCosh}
"""


@pytest.fixture(name="added")
def _added(tmp_path, monkeypatch):
    """Adds toy.py and GROUP/toy.yaml to a run of train.py, and returns its results."""

    def add(group, source, yaml, *overrides):
        (tmp_path / "code").mkdir()
        (tmp_path / "code/toy.py").write_text(source)
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "toy.yaml").write_text(yaml)
        monkeypatch.syspath_prepend(tmp_path / "code")
        monkeypatch.delitem(sys.modules, "toy", raising=False)
        words = [f"{group}=toy", f"hydra.searchpath=[file://{tmp_path / 'conf'}]"]
        run(composed(tmp_path / "run", *overrides, *words, "allowed_targets=[toy]"))
        return json.loads((tmp_path / "run/results.json").read_text())

    return add


def test_a_loss_that_gauss_newton_minimises(added):
    numbers = added("losses", LOSS, LOSS_YAML, *FEW_SLABS)
    assert numbers["threshold_error_after_max_keV"] < 1e-3
    assert numbers["fit_converged"]
