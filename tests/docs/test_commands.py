"""Every command of the documents runs as it is typed, in a folder where the files it names exist.

Settings that make it small are appended; nothing else is changed.
"""

import logging
import runpy
import shutil
import sys
import warnings

import h5py
import matplotlib as mpl
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from support.ct_files import round_patient, write_nifti
from support.documents import DOCUMENTS, Command, code_blocks, commands
from support.phantom_scans import piled_up_scan
from support.studies import REPOSITORY

from pcctlearn.phantoms.ellipses import water_calcium_phantom
from pcctlearn.scans.file import read_scan, write_scan
from pcctlearn.scatter.checkpoint import save_correction
from pcctlearn.scatter.network import ScatterNetwork

PANEL = ["n_views=2", "n_rows=8", "n_columns=12", "pixel_cm=3.84"]
VOLUME = ["n_z=24", "n_y=28", "n_x=24", "voxel_cm=1.0"]
FAN = [f"tomography.geometry.{word}" for word in ("n_views=36", "n_columns=32", "pixel_cm=1.12")]
FAN += ["tomography.grid.n_y=32", "tomography.grid.n_x=32", "tomography.grid.voxel_cm=0.8"]
SCATTER = [
    f"montecarlo.transport.{word}"
    for word in ("accuracy=0.3", "chunk_histories=50", "pixel_cm=3.84")
]
CONE = [f"tomography.geometry.{word}" for word in PANEL]
CONE += [f"tomography.grid.{word}" for word in VOLUME]
CONE += SCATTER
BODY = [*CONE, "tomography.geometry.n_columns=24", "tomography.grid.voxel_cm=1.2"]
STUDY = [*CONE, "datasets.n_cases=4", "study.split=[2,1,1]", "trainer.max_epochs=1"]
TINY = ["scatter.correction.channels=[6,6]", "scatter.correction.grid=[2,3]"]
NETWORK = [*STUDY, *TINY]
SLABS = ["study.water_cm=[0.0,24.0,8.0]", "study.calcium_cm=[0.0,1.0,0.5]", "study.max_steps=2"]
SLABS += ["logger=none"]
PHANTOM = [
    "study.max_steps=2",
    "study.least_views=4",
    "logger=none",
    "tomography.geometry.pixel_cm=1.2",
]
PHANTOM += ["tomography.geometry.n_views=24", "tomography.geometry.n_columns=32"]
PHANTOM += ["tomography.grid.n_y=32", "tomography.grid.n_x=32", "tomography.grid.voxel_cm=1.2"]
ABDOMEN = [
    "logger=none",
    *(f"tomography.geometry.{word}" for word in ("n_views=24", "n_columns=96", "pixel_cm=0.4")),
    *(f"tomography.grid.{word}" for word in ("n_y=64", "n_x=64", "voxel_cm=0.4")),
]
BENCH = [
    *(f"tomography.geometry.{word}" for word in ("n_views=30", "n_columns=40", "pixel_cm=0.9")),
    *(f"tomography.grid.{word}" for word in ("n_y=60", "n_x=60", "voxel_cm=0.42")),
]
COLUMNS = ["study.biased_columns=[12,20]"]
TABLE = ["detector.n_histories=200", "detector.last_keV=14.5", "response_folder=TABLES"]
PILE_UP = [
    *("tomography.geometry.n_views=6", "tomography.geometry.n_columns=56"),
    *("tomography.geometry.pixel_cm=0.64", "tomography.grid.n_x=48", "tomography.grid.n_y=48"),
    *("tomography.grid.voxel_cm=0.5", "study.currents_mA=[1.4]", "study.readout.view_s=0.005"),
    *("study.readout.photons_per_mA=5e3", "study.readout.plate_photons=1e5"),
    *("study.readout.series_photons=1e5", "logger=none", "n_threads=1"),
]
FRAMES = [
    *("datasets.n_modules=2", "datasets.n_plate=60", "datasets.n_air=30", "datasets.n_dark=20"),
    *("datasets.frames_per_view=2", "tomography.geometry.n_columns=123"),
    *("tomography.geometry.n_views=36", "tomography.geometry.pixel_cm=0.3"),
    *("tomography.grid.n_y=32", "tomography.grid.n_x=32", "tomography.grid.voxel_cm=0.8"),
]
SMALLER = [  # the first whose words are all in the command
    ("evaluate.py", ["n_threads=1"]),
    ("calibrate.py", ["n_threads=1"]),
    ("simulate.py datasets=plates", ["datasets.n_columns=40"]),
    ("simulate.py datasets=bench folder=WIDER", [*FRAMES, "tomography.geometry.n_columns=128"]),
    ("simulate.py datasets=bench", FRAMES),
    ("simulate.py detector=silicon", TABLE),
    ("simulate.py datasets=nifti tomography=fan_bench", [*BENCH, "tomography.grid.voxel_cm=0.5"]),
    ("simulate.py datasets=nifti", BODY),
    ("simulate.py datasets=kits", BODY),
    ("simulate.py datasets=variants", [*BODY, "datasets.n_variants=1"]),
    ("simulate.py scan=of_plates", [*BENCH, "datasets.n_cases=1"]),
    ("simulate.py scan=without_scatter", [*FAN, "datasets.n_cases=2"]),
    ("simulate.py", [*CONE, "datasets.n_cases=2"]),
    ("train.py experiment=thresholds_slabs", SLABS),
    ("train.py experiment=thresholds_phantom_all_pixels", PHANTOM),
    (
        "train.py experiment=thresholds_phantom tomography=fan",
        [*PHANTOM, *COLUMNS, "tomography.geometry.pixel_cm=2.3"],
    ),
    ("train.py experiment=thresholds_phantom", [*PHANTOM, *COLUMNS]),
    ("train.py experiment=etb_abdomen", ABDOMEN),
    ("train.py experiment=etb_pileup", PILE_UP),
    (
        "train.py datasets=scans",
        [*TINY, "study.split=[1,1,1]", "trainer.max_epochs=1", "logger=none"],
    ),
    ("train.py scatter=kernel", [*STUDY, "scatter.correction.n_histories=2000", "logger=none"]),
    ("train.py sweep=scatter_table", [*STUDY, "hydra.sweeper.params.seed=1", "logger=none"]),
    ("train.py sweep=decompositions", [*NETWORK, "hydra.sweeper.params.seed=1", "logger=none"]),
    ("train.py sweep=optuna", [*NETWORK, "hydra.sweeper.n_trials=2", "logger=none"]),
    (
        "train.py experiment=scatter_judgement",
        [*CONE, "datasets.n_cases=1", "scan.scatter_every=1", "logger=none"],
    ),
    ("train.py -m", [*NETWORK, "hydra.sweep.dir=SWEEP", "logger=none"]),
    ("train.py logger.offline=false", NETWORK),
    ("train.py", [*NETWORK, "logger=none"]),
]
ORDINARY = [
    *("tomography=fan", "datasets.n_cases=1", "tomography.geometry.n_views=40"),
    *("tomography.geometry.n_columns=64", "tomography.geometry.pixel_cm=1.1"),
    *("tomography.grid.n_x=64", "tomography.grid.n_y=64", "tomography.grid.voxel_cm=0.6"),
]
PLACEHOLDERS = {  # what stands for other commands
    "python train.py experiment=NAME": "each experiment is a test of its own",
    "PYTHONPATH=. python …": "each benchmark is run by itself",
    "python -m pcctlearn check FILE [FILE …]": "shown with a file in README.md",
}
JUDGED = ["hydra.run.dir=TRAINED/images/1", "hydra.run.dir=TRAINED/counts/1"]
COMMANDS = [command for command in commands() if command.line not in PLACEHOLDERS]


def smaller(command: Command) -> list[str]:
    """What makes this command small."""
    words = set(command.words)
    return next((more for pattern, more in SMALLER if set(pattern.split()) <= words), [])


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("workshop")
    with pytest.MonkeyPatch.context() as patch:
        as_a_user(patch, folder)
        made = Command("", "python simulate.py folder=FOLDER")
        typed(made.words, [*smaller(made), "datasets.n_cases=3"])
    shutil.copy(folder / "FOLDER/scans/head_00000.h5", folder / "SCAN.h5")
    scan = read_scan(folder / "SCAN.h5", {"spectrum", "response"})
    model = scan.spectral_model(["water", "calcium"])
    correction = ScatterNetwork(scan.geometry, model, channels=(6, 6), grid=(2, 3))
    save_correction(folder / "RUN/checkpoints/best.ckpt", correction, scan.geometry, model)
    for name in ("CT.nii.gz", "CASE.nii.gz", "KITS23/dataset/case_00000/imaging.nii.gz"):
        write_nifti(folder / name, round_patient(shape=(8, 64, 64)), (30.0, 5.0, 5.0))
    shutil.copy(REPOSITORY / "data/physics/response/silicon_60mm.csv", folder / "mine.csv")
    with pytest.MonkeyPatch.context() as patch:
        as_a_user(patch, folder)
        page = (REPOSITORY / "docs/scan_file.md").read_text(encoding="utf-8")
        exec(code_blocks(page, "python")[0], {})  # writes my_scan.h5
        page = (REPOSITORY / "docs/plate_file.md").read_text(encoding="utf-8")
        exec(code_blocks(page, "python")[0], {})  # writes my_plates.h5
        page = (REPOSITORY / "docs/dead_time.md").read_text(encoding="utf-8")
        exec(code_blocks(page, "python")[0], {})  # writes series.h5
        typed(["simulate.py", "datasets=plates", "folder=PLATES"], ["datasets.n_columns=40"])
        four = "physics.thresholds.edges_keV=[15.0,33.0,45.0,59.0,149.0]"  # of series.h5
        typed(["simulate.py", "datasets=plates", "folder=FOUR", four], ["datasets.n_columns=40"])
        places = -11.0, -5.5, 0.0, 5.5, 11.0  # every pixel sees calcium
        row = water_calcium_phantom((26.88, 7.0), insert_x_cm=places, calcium_g_cm3=0.3)
        write_scan(folder / "COUNTED.h5", piled_up_scan(24, 24, noisy=True, phantom=row))
        for name in ("CALIBRATED", "COUNTERS", "FANS", "BENCH", "FRAMES", "DETECTOR", "CDTE"):
            made = next(c for c in commands() if f"folder={name}" in c.words)
            typed(made.words, smaller(made))
        for word in ("import", "folder=PIXELS", *JUDGED):
            made = next(c for c in commands() if word in c.words)
            typed(made.words, smaller(made))
    shutil.copy(folder / "BENCH/scans/head_00000.h5", folder / "PHANTOM.h5")
    shutil.copy(folder / "FOUR/plates.h5", folder / "PLATES.h5")
    with h5py.File(folder / "PLATES.h5", "r+") as file:
        file.create_dataset("time_s", data=np.full(5, 60.0)).attrs["unit"] = "s"
    with pytest.MonkeyPatch.context() as patch:
        as_a_user(patch, folder)
        typed(["simulate.py", "datasets=heads", "scan=without_scatter", "folder=OBJECT"], ORDINARY)
    shutil.copy(folder / "OBJECT/scans/head_00000.h5", folder / "OBJECT.h5")
    rows = [f"{keV / 2}\t{(keV / 2 - 9) * (121 - keV / 2):g}" for keV in range(20, 241)]
    (folder / "mine.txt").write_text("\n".join(["Energy\tFluence", *rows]), encoding="utf-8")
    return folder


def as_a_user(patch, folder):
    """In this folder, without what tests set for themselves."""
    patch.chdir(folder)
    patch.setenv("PCCTLEARN_CACHE", str(folder / "cache"))
    patch.setenv("HYDRA_FULL_ERROR", "")  # which the commands set
    torch.set_default_dtype(torch.float32)
    mpl.use("agg")


def typed(words, more):
    """Run a script or module in this process; its exit status."""
    script, *arguments = words
    argv, handlers = sys.argv, logging.getLogger().handlers[:]
    module = script == "-m"
    sys.argv = words[1:] if module else [str(REPOSITORY / script), *arguments, *more]
    try:
        with warnings.catch_warnings():
            if module:
                runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = argv
        logging.getLogger().handlers[:] = handlers
        GlobalHydra.instance().clear()
    return 0


@pytest.mark.physics
@pytest.mark.usefixtures("annotations_off")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.line)
def test_a_documented_command_runs(command, workshop, monkeypatch, capsys):
    as_a_user(monkeypatch, workshop)
    more = smaller(command)
    if "physics/spectrum=spekpy" in command.words:
        pytest.importorskip("spekpy", reason="spekpy is an option, requirements-spectra.txt")
    if "trainer=learning_gpu" in command.words and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if "compare STUDY" in command.line and not (workshop / "STUDY").exists():
        first = ["-m", "experiment=thresholds_slabs", "seed=1,2", "hydra.sweep.dir=STUDY"]
        assert typed(["train.py", *first], SLABS) == 0
    if "compare IMAGES" in command.line and not (workshop / "IMAGES").exists():
        made = next(c for c in commands() if "folder=IMAGES" in c.words)
        assert typed(made.words, smaller(made)) == 0
    status = typed(command.words, more)
    said = capsys.readouterr().err
    if "logger.offline=false" in command.words and status:  # nobody is logged in here
        assert status == 2
        assert "`wandb login`" in said
    else:
        assert status == 0, said


def test_no_placeholder_is_left_without_a_command():
    written = {command.line for command in commands()}
    assert set(PLACEHOLDERS) <= written
    assert DOCUMENTS
