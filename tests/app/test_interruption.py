"""Exit status and messages of interrupted commands and failed jobs."""

import os
import signal
import subprocess
import sys

import pytest
from support.studies import REPOSITORY

SLEEP = """
import time
from pcctlearn.app.entry import run_command
def main():
    print("ready", flush=True)
    time.sleep(60)
run_command(main, "train.py")
"""
FIT = """
import time, torch
from pytorch_lightning import LightningModule, Trainer
from pcctlearn.app.entry import run_command
class Slow(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
    def training_step(self, batch, index):
        print("ready", flush=True)
        time.sleep(0.2)
        return self.weight.sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
def main():
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    Trainer(accelerator="cpu", max_epochs=10, enable_model_summary=False, **quiet).fit(
        Slow(), torch.utils.data.DataLoader(range(99))
    )
run_command(main, "train.py")
"""
SWALLOW = """
import time
from pcctlearn.app.entry import run_command
def main():
    print("ready", flush=True)
    try:
        time.sleep(60)
    except BaseException:
        print("went on", flush=True)
run_command(main, "train.py")
"""
SWEEP = """
import time
from pathlib import Path
from pcctlearn.app.entry import run_configured
def main(config):
    with open("jobs.txt", "a") as jobs:
        jobs.write(f"{config.seed}\\n")
    if config.seed < 0:
        raise ValueError(f"seed must be positive, got {config.seed}")
    print("ready", flush=True)
    time.sleep(config.seconds)
if __name__ == "__main__":
    run_configured(main, "train.py", Path("conf"))
"""
MAIN = "seed: 0\nseconds: 60\nallowed_targets: []\nhydra: {sweep: {dir: sweep}, run: {dir: run}}\n"


def started(folder, *words, text):
    """The process of a script."""
    script = folder / "train.py"
    script.write_text(text, encoding="utf-8")
    (folder / "conf").mkdir(exist_ok=True)
    (folder / "conf" / "train.yaml").write_text(MAIN, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment.pop("HYDRA_FULL_ERROR", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, str(script), *words], cwd=folder, env=environment, **pipes
    )


@pytest.mark.parametrize(
    ("text", "number", "status", "said"),
    [
        (SLEEP, signal.SIGINT, 130, "Ctrl-C"),
        (SLEEP, signal.SIGTERM, 143, "SIGTERM"),
        (SWALLOW, signal.SIGTERM, 143, "SIGTERM"),
        (FIT, signal.SIGTERM, 143, "SIGTERM"),
        (FIT, signal.SIGINT, 130, "Ctrl-C"),
    ],
    ids=["sleep-int", "sleep-term", "swallowed", "fit-term", "fit-int"],
)
def test_a_signal_ends_a_command_with_its_status_and_one_line(tmp_path, text, number, status, said):
    process = started(tmp_path, text=text)
    while "ready" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert errors.splitlines()[-1] == f"pcctlearn: stopped by {said}"
    assert "Traceback" not in errors


def test_a_signal_ends_a_sweep(tmp_path):
    process = started(tmp_path, "-m", "seed=1,2,3", text=SWEEP)
    while "ready" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.splitlines() == ["pcctlearn: stopped by SIGTERM"]
    assert (tmp_path / "jobs.txt").read_text() == "1\n"


@pytest.mark.parametrize(
    ("words", "n_jobs"), [(["seed=-1"], 1), (["-m", "seed=-1,2", "seconds=0"], 2)], ids=str
)
def test_a_failed_job_prints_one_line(tmp_path, words, n_jobs):
    process = started(tmp_path, *words, text=SWEEP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.splitlines() == ["pcctlearn: seed must be positive, got -1"]
    assert len((tmp_path / "jobs.txt").read_text().split()) == n_jobs
