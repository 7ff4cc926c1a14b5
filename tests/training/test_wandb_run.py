"""W&B starts without a warning that is none of the user's business."""

import os

import pytest

from pcctlearn.training.wandb_run import WandbRun


def test_an_offline_run_starts_without_a_warning(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    logger = WandbRun("test", "test", str(tmp_path), settings={"silent": True, "console": "off"})
    assert logger.experiment.offline
    wandb.finish()
    assert "anonymous" not in capsys.readouterr().err
