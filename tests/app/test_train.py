"""Outputs of a run of train.py, and its messages about wrong input."""

import errno
import json
import os
import re
import subprocess
import sys

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support.configs import FEW_SLABS, composed
from support.studies import REPOSITORY

from pcctlearn.app import run
from pcctlearn.app.sentences import EXPECTED, explain
from pcctlearn.runs import results
from pcctlearn.runs.finished import finished_jobs
from pcctlearn.runs.folder import held
from pcctlearn.studies.thresholds_slabs import SlabCalibration


def command(*arguments, cwd=REPOSITORY, python=()):
    environment = {k: v for k, v in os.environ.items() if k not in ("HYDRA_FULL_ERROR",)}
    return subprocess.run(
        [sys.executable, *python, str(REPOSITORY / "train.py"), *arguments],
        cwd=cwd,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_help_names_the_choices_without_loading_torch():
    done = command("--help", python=("-X", "importtime"))
    assert done.returncode == 0
    for word in ("thresholds_phantom", "physics/response", "damped_newton", "datasets.path"):
        assert word in done.stdout
    assert not re.search(r"\|\s+(torch|pytorch_lightning|matplotlib)$", done.stderr, re.MULTILINE)


def test_a_run_writes_all_of_its_outputs(tmp_path):
    folder = tmp_path / "run"
    done = command(*FEW_SLABS, f"hydra.run.dir={folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = {"results.json", "arrays.h5", "report.html"}
    wanted |= {"figures/calibration_curves.png", "figures/slab_decomposition.png"}
    wanted |= {f".hydra/{name}.yaml" for name in ("config", "overrides", "hydra")}
    assert wanted <= set(files(folder))
    assert not any(".part" in name for name in files(folder))
    html = (folder / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", html)
    assert "study.max_steps=8" in html
    assert str(folder / "report.html") in done.stdout.splitlines()[-1]
    assert "threshold_error_after_max_keV" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study.bias_kev=1"], ["study.bias_kev", "did you mean study.bias_keV?"]),
        (["hydra.run.dir=file/run"], ["file/run", "ot a directory", "hydra.run.dir=FOLDER"]),
    ],
    ids=["unknown_key", "folder_below_a_file"],
)
def test_a_mistake_is_one_line_and_an_exit_code(tmp_path, arguments, words):
    (tmp_path / "file").write_text("")
    done = command(*FEW_SLABS, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("pcctlearn: ")
    assert all(word in line for word in words), line
    assert not list(tmp_path.rglob("results.json"))


def words_of(folder):
    """The overrides of the run in a folder, from Hydra's record and from its results."""
    with h5py.File(folder / "arrays.h5") as file:
        recorded = json.loads(file.attrs["overrides"])
    return OmegaConf.to_object(OmegaConf.load(folder / ".hydra/overrides.yaml")), recorded


@pytest.mark.parametrize("ends", ["finishes", "is interrupted"])
def test_a_run_moves_an_earlier_run_in_its_folder_aside(tmp_path, monkeypatch, caplog, ends):
    words = [*FEW_SLABS, "trainer.callbacks=null"]
    run.run(composed(tmp_path, *words, "study.max_steps=2"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").write_bytes(b"of 209 epochs")
    (tmp_path / "notes.txt").write_text("of the user")
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    study = "pcctlearn.studies.thresholds_slabs.SlabCalibration.run"
    if ends == "is interrupted":

        def interrupted(self, context):
            assert context.folder == tmp_path
            raise KeyboardInterrupt

        monkeypatch.setattr(study, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.run(composed(tmp_path, *words, "study.max_steps=3"))
    else:
        run.run(composed(tmp_path, *words, "study.max_steps=3"))
    aside = tmp_path / "earlier_1"
    moved = {name: (aside / name).read_bytes() for name in files(aside)}
    assert moved == {name: kept for name, kept in before.items() if name != "notes.txt"}
    assert str(aside) in caplog.text
    assert not (tmp_path / "checkpoints").exists()
    if ends == "finishes":
        assert all("study.max_steps=3" in some for some in words_of(tmp_path))
        assert len(finished_jobs(tmp_path)) == 1
    else:
        assert {n for n in files(tmp_path) if not n.startswith(("earlier_1", ".hydra"))} == {
            "notes.txt"
        }
        assert not finished_jobs(tmp_path)


def test_a_mistake_moves_nothing_aside(tmp_path):
    words = [*FEW_SLABS, "trainer.callbacks=null"]
    run.run(composed(tmp_path, *words))
    before = files(tmp_path)
    with pytest.raises(EXPECTED, match="edges_keV"):
        run.run(composed(tmp_path, *words, f"{EDGES}=[15.0,33.0,20.0,59.0,120.0]"))
    assert files(tmp_path) == before


def test_a_refused_run_leaves_no_folder(tmp_path):
    folder = tmp_path / "run"
    done = command(*FEW_SLABS, "study.bias_keV=[0]", f"hydra.run.dir={folder}", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert not folder.exists()


def test_two_runs_in_one_folder(tmp_path):
    """The second is refused and writes nothing, and the remedy works."""
    folder = tmp_path / "run"
    words = [*FEW_SLABS, "trainer.callbacks=null"]
    with held(folder, "hydra.run.dir"):
        done = command(*words, f"hydra.run.dir={folder}", cwd=tmp_path)
        assert done.returncode == 2
        assert re.search(rf"{folder} .*in use.* {os.getpid()} ", done.stderr)
        assert set(files(folder)) <= {".lock", "train.log"}
    assert "hydra.run.dir=FOLDER" in done.stderr
    done = command(
        *words, "study.bias_keV=0.3", f"hydra.run.dir={tmp_path / 'other'}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    done = command(*words, f"hydra.run.dir={folder}", cwd=tmp_path)  # the first has ended
    assert done.returncode == 0, done.stderr


def said(folder, *overrides):
    """The message of train.py about a run that fails, in this process."""
    with pytest.raises(EXPECTED) as caught:
        run.run(composed(folder, *overrides))
    sentence = explain(caught.value, "train.py")
    assert sentence
    assert "\n" not in sentence
    assert all(name.startswith(".hydra/") for name in files(folder))
    return sentence


EDGES = "physics.thresholds.edges_keV"
BAD = [
    (["foo=1"], ["unknown key foo", "accepted"]),
    (["looses=direct"], ["unknown key looses", "did you mean losses?"]),
    (["+looses=direct"], ["unknown key looses", "did you mean losses?"]),
    (["++looses=direct"], ["unknown key looses", "did you mean losses?"]),
    (["+scatter=kernel"], ["unknown key scatter"]),
    (["+paths.dat=x"], ["unknown key paths.dat", "did you mean paths.data?"]),
    (["~seed"], ["seed was deleted", "~seed"]),
    (["trainer.max_epochs=three"], ["trainer.max_epochs must be", "'three'"]),
    (["solvers=bisection"], ["solvers=bisection", "damped_newton", "nelder_mead"]),
    (["physics/response=germanium"], ["physics/response=germanium", "cdte", "silicon"]),
    ([f"{EDGES}=foo"], [EDGES, "Sequence[float]", "'foo'"]),
    ([f"{EDGES}=[15.0,33.0,foo,59.0,120.0]"], [EDGES, "'foo'"]),
    ([f"{EDGES}=[15.0,33.0,20.0,59.0,120.0]"], ["edges_keV must", "increase", "20.0"]),
    ([f"{EDGES}=[2.0,33.0,45.0,59.0,120.0]"], ["do not cover", "lowest_keV"]),
    (["seed=abc"], ["seed must be int", "'abc'"]),
    (["seed=true"], ["seed must be int", "True"]),
    (["seed=-1"], ["seed must lie in", "-1"]),
    (["n_threads=0"], ["n_threads must be 1 or more", "0"]),
    (["study.bias_keV=true"], ["study.bias_keV must be float", "True"]),
    (["study.max_steps=0"], ["max_steps", "0"]),
    (["study=slabs"], ["study", "'slabs'", "experiment=NAME"]),
    (["+physics.spectrum.photons=3"], ["physics.spectrum.photons", "photons_per_pixel"]),
    (["physics.materials=[water,unobtainium]"], ["'unobtainium'", "formula"]),
    (["physics/response=file"], ["physics.response.path=VALUE"]),
    (["solvers._target_=pcctlearn.solvers.Nothing"], ["solvers._target_", "Nothing"]),
    (["training.optimizer.damping=-1.0"], ["damping must be positive", "-1"]),
]


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_named_with_its_remedy(tmp_path, overrides, words):
    sentence = said(tmp_path, *FEW_SLABS, "trainer.callbacks=null", *overrides)
    assert all(word in sentence for word in words), sentence


NETWORK = ["experiment=scatter_cross_domain", "logger=none"]
REFUSED_BEFORE_SCANS = [
    (["training.optimizer.lr=-1"], ["-1"]),
    (["training.scheduler.T_max=0.5"], ["training.scheduler.T_max", "0.5"]),
    (["training.n_gradient_views=0"], ["n_gradient_views", "0"]),
    (["training=gauss_newton"], ["training=chain"]),
    (["trainer.max_epochs=three"], ["trainer.max_epochs", "'three'"]),
    (["trainer.devices=0"], ["trainer"]),
    (["trainer.precision=7"], ["precision"]),
    (["study.split=[9,9,9]"], ["study.split", "datasets.n_cases"]),
    (["study.vmi_keV=-60.0"], ["-60"]),
    (["losses.terms.maps.stage=picture"], ["picture"]),
    (["scan.scatter=null"], ["scan.grid_transmission=null"]),
    (["scan.spr=0.1"], ["scan.grid_transmission=null"]),
    (["logger={_target_: pytorch_lightning.loggers.WandbLogger, offline: false}"], ["wandb login"]),
]


@pytest.mark.parametrize(
    ("overrides", "words"), REFUSED_BEFORE_SCANS, ids=[" ".join(c[0]) for c in REFUSED_BEFORE_SCANS]
)
def test_settings_are_refused_before_a_scan_is_made(tmp_path, monkeypatch, overrides, words):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pcctlearn.simulation.simulator.ScanSimulator.scan", no_scan)
    config = [*NETWORK, f"paths.data={tmp_path / 'generated'}", *overrides]
    with pytest.raises(EXPECTED) as caught:
        run.run(composed(tmp_path / "run", *config))
    sentence = explain(caught.value, "train.py")
    assert all(word in sentence for word in words), sentence
    assert not (tmp_path / "generated").exists()


def no_scan(*arguments, **options):
    raise AssertionError("a scan is simulated")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_trainer_without_its_device_is_refused_before_a_scan_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("pcctlearn.simulation.simulator.ScanSimulator.scan", no_scan)
    words = [*NETWORK, f"paths.data={tmp_path / 'generated'}", "trainer=learning_gpu"]
    with pytest.raises(ValueError, match=r"add trainer\.accelerator=cpu"):
        run.run(composed(tmp_path / "run", *words))
    config = composed(tmp_path / "run", *words, "trainer.accelerator=cpu")
    with pytest.raises(AssertionError, match="a scan is simulated"):  # it is accepted
        run.run(config)


@pytest.mark.parametrize("known_before", [True, False])
def test_a_misspelt_objective_is_rejected_before_the_run_if_possible(
    tmp_path, monkeypatch, known_before
):
    """After the run, its results are kept."""
    if not known_before:
        monkeypatch.delattr(SlabCalibration, "result_names")
    config = composed(tmp_path, *FEW_SLABS, "trainer.callbacks=null", "objective=loss")
    with pytest.raises(ValueError, match=r"objective='loss'.*threshold_error_after"):
        run.run(config)
    assert ("results.json" in files(tmp_path)) != known_before


def test_a_missing_and_a_truncated_volume(tmp_path):
    volume, folder = tmp_path / "ct.nii", tmp_path / "run"
    words = ("experiment=thresholds_phantom", f"datasets.path={volume}", "logger=none")
    assert "ct.nii" in said(folder, *words)
    nib.save(nib.Nifti1Image(np.full((9, 9, 9), -1000, np.int16), np.eye(4)), volume)
    volume.write_bytes(volume.read_bytes()[:-99])
    assert "copy it again" in said(folder, *words)


@pytest.mark.parametrize("writer", ["h5py.File", "matplotlib.figure.Figure.savefig"])
def test_no_space_left(tmp_path, monkeypatch, writer):
    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, no_space)
    sentence = said(tmp_path, *FEW_SLABS, "trainer.callbacks=null")
    assert "No space left on device" in sentence
    assert "free some space" in sentence


def test_a_result_that_is_nan_is_refused(tmp_path, monkeypatch):
    broken = results.StudyResults({"error_keV": float("nan")}, {})
    study = "pcctlearn.studies.thresholds_slabs.SlabCalibration.run"
    monkeypatch.setattr(study, lambda self, context: broken)
    assert "error_keV" in said(tmp_path, *FEW_SLABS)
