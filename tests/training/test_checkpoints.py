"""Atomic checkpoints, and the error for a full disk."""

import errno
import os

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from support.studies import quiet_trainer
from torch.utils.data import DataLoader

from pcctlearn.files import atomic as files
from pcctlearn.training.checkpoints import WholeCheckpoints


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, epochs=3):
    checkpoint = ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor="loss",
        save_last=True,
        enable_version_counter=False,
    )
    trainer = quiet_trainer(
        max_epochs=epochs,
        enable_checkpointing=True,
        callbacks=[checkpoint],
        plugins=[WholeCheckpoints()],
    )
    trainer.fit(Line(), DataLoader(torch.ones(4, 1)))


def test_a_saved_checkpoint_is_the_only_file(tmp_path):
    fit(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    for path in tmp_path.iterdir():
        assert torch.load(path, weights_only=True)["state_dict"]["layer.weight"].shape == (1, 1)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch, epoch):
    fit(tmp_path / "whole", epochs=epoch - 1 or 1)
    calls, flush = [], files._flush

    def full(path):
        if path.name.startswith(".best.ckpt"):
            calls.append(path)
            if len(calls) == epoch:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path)

    monkeypatch.setattr(files, "_flush", full)
    with pytest.raises(OSError, match=r"best\.ckpt.*No space left"):
        fit(tmp_path / "full")
    left = {path.name for path in (tmp_path / "full").iterdir()}
    assert left == (set() if epoch == 1 else {"best.ckpt", "last.ckpt"})
    for path in (tmp_path / "full").iterdir():
        torch.load(path, weights_only=True)
