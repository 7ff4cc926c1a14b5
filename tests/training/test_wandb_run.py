"""Options that Lightning passes to W&B."""

from pytorch_lightning.loggers import WandbLogger

from pcctlearn.training.wandb_run import WandbRun


def test_only_the_deprecated_option_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")  # Lightning sets it too, and does not restore it
    words = {"project": "test", "name": "a run", "save_dir": str(tmp_path), "offline": True}
    theirs, ours = WandbLogger(**words)._wandb_init, WandbRun(**words)._wandb_init
    assert set(theirs) - set(ours) == {"anonymous"}
    assert {name: value for name, value in theirs.items() if name in ours} == ours
