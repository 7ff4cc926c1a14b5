"""The kill benchmark detects faulty outputs, and reports none in a few kills."""

import json
import shutil

import h5py
import matplotlib.figure
import numpy as np
import pytest
import torch

from benchmarks.kills import Command, damaged, different, leftover, measure, unfinished


@pytest.fixture
def run(tmp_path):
    """A folder with one output of each kind."""
    folder = tmp_path / "run"
    (folder / "job").mkdir(parents=True)
    with h5py.File(folder / "job/arrays.h5", "w") as file:
        file.create_dataset("a", data=np.arange(5000.0), fletcher32=True)
    torch.save({"state_dict": torch.rand(100)}, folder / "job/best.ckpt")
    matplotlib.figure.Figure().savefig(folder / "job/figure.png")
    (folder / "job/report.html").write_text("<html></html>\n")
    (folder / "job/results.json").write_text(json.dumps({"error": 1.0, "seconds": 2.0}))
    return folder


def command(tmp_path, run):
    for name in ("reference", "earlier"):
        shutil.copytree(run, tmp_path / name)
    (tmp_path / "earlier/job/older.png").write_bytes(b"")
    made = Command(list, "", ("arrays.h5",))
    made.reference, made.earlier = tmp_path / "reference", tmp_path / "earlier"
    return made


def test_complete_outputs_of_one_run_have_no_fault(tmp_path, run):
    reference = command(tmp_path, run)
    (run / "job/results.json").write_text(json.dumps({"error": 1.0 + 1e-7, "seconds": 3.0}))
    shutil.copytree(run / "job", run / "job/earlier_1")
    assert damaged(run) + unfinished(run, reference, False) + leftover(run) == []
    assert different(run, reference) == []


@pytest.mark.parametrize(
    "name", ["arrays.h5", "best.ckpt", "figure.png", "report.html", "results.json"]
)
def test_a_truncated_file_is_found(run, name):
    path = run / "job" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (fault,) = damaged(run)
    assert name in fault


def test_outputs_of_two_runs_or_of_half_a_run_are_found(tmp_path, run):
    reference = command(tmp_path, run)
    (run / "job/older.png").write_bytes(b"")  # an output of the earlier run
    assert unfinished(run, reference, True) == []
    assert len(unfinished(run, reference, False)) == 1
    (run / "job/figure.png").unlink()
    assert len(unfinished(run, reference, True)) == 1


def test_different_and_temporary_files_are_found(tmp_path, run):
    reference = command(tmp_path, run)
    (run / "job/.arrays.h5.host.1.1.part").write_bytes(b"")
    (run / ".lock").write_bytes(b"")
    assert len(leftover(run)) == 2
    (run / "job/results.json").write_text(json.dumps({"error": 1.001, "seconds": 2.0}))
    with h5py.File(run / "job/arrays.h5", "a") as file:
        file.attrs["other"] = 1
    (run / "job/more.png").write_bytes(b"")
    assert len(different(run, reference)) == 3


@pytest.mark.physics
def test_killed_commands_can_be_restarted(tmp_path):
    results = measure(tmp_path, 2, 0, ["simulate", "evaluate"])
    assert results["faults"] == []
    assert sum(counts["kills"] for counts in results["commands"].values()) > 0
