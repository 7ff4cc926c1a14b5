"""simulate.py makes the same data set in one run, in shards, and after an interruption."""

import json
import shutil
import signal
import subprocess
import sys
import threading

import h5py
import numba
import pytest
import torch
import yaml
from support.configs import composed
from support.studies import REPOSITORY

from pcctlearn.app import run
from pcctlearn.app.sentences import EXPECTED
from pcctlearn.figures.arrays import read_numbers
from pcctlearn.runs.results import StudyResults, write_results
from pcctlearn.scans.file import faults, read_scan
from pcctlearn.simulation import scans as simulated_scans

SMALL = [
    "datasets.n_cases=3",
    "tomography.geometry.n_views=2",
    "tomography.geometry.n_rows=8",
    "tomography.geometry.n_columns=12",
    "tomography.geometry.pixel_cm=3.84",
    "tomography.grid.n_z=24",
    "tomography.grid.n_y=28",
    "tomography.grid.n_x=24",
    "tomography.grid.voxel_cm=1.0",
    "montecarlo.transport.accuracy=0.3",
    "montecarlo.transport.chunk_histories=50",
    "montecarlo.transport.pixel_cm=3.84",
]
NULLS = ["+scan.new_key=null", "+datasets.new_group={a_key:null}"]


def make(folder, *overrides):
    config = composed(folder, *SMALL, f"folder={folder}", *overrides, name="simulate")
    run.run(config)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "scans").glob("*.h5")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    make(folder)
    return folder


def test_scans_report_and_figures_are_written(whole):
    scans = sorted((whole / "scans").iterdir())
    assert [path.name for path in scans] == [f"head_0000{k}.h5" for k in range(3)]
    assert [faults(path) for path in scans] == [[], [], []]
    for name in ("results.json", "report.html", "figures/cases.png"):
        assert (whole / name).stat().st_size > 0


def test_the_noise_of_cases_is_independent(whole):
    scans = [
        read_scan(path, ["counts", "primary", "scatter"]) for path in sorted(whole.glob("scans/*"))
    ]
    assert len({scan.seed for scan in scans}) == 3
    noise = []
    for scan in scans:
        expected = scan.at("primary") + scan.at("scatter")
        noise.append(((scan.at("counts") - expected) / expected.sqrt()).flatten())
    correlation = torch.corrcoef(torch.stack(noise))
    off = correlation[~torch.eye(3, dtype=torch.bool)]
    assert off.abs().max() < 5 / len(noise[0]) ** 0.5


def test_shards_make_the_same_set(whole, tmp_path):
    make(tmp_path, "shard=1/2")
    assert set(bytes_of(tmp_path)) == {"head_00001.h5"}
    assert not (tmp_path / "report.html").exists()
    make(tmp_path, "shard=0/2")
    assert bytes_of(tmp_path) == bytes_of(whole)
    assert (tmp_path / "report.html").exists()


def test_an_interrupted_set_is_completed(whole, tmp_path, monkeypatch):
    calls, write = [], simulated_scans.write_scan

    def write_then_stop(path, scan):
        if calls:
            raise KeyboardInterrupt
        calls.append(path)
        write(path, scan)

    monkeypatch.setattr(simulated_scans, "write_scan", write_then_stop)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    monkeypatch.setattr(simulated_scans, "write_scan", write)
    assert len(bytes_of(tmp_path)) == 1
    left = [".head_00001.h5.elsewhere.1.1.part", ".head_00002.h5.lock"]
    for name in left:
        (tmp_path / "scans" / name).write_bytes(b"left by SIGKILL")
    made = (tmp_path / "scans" / "head_00000.h5").stat().st_mtime_ns
    make(tmp_path)
    assert (tmp_path / "scans" / "head_00000.h5").stat().st_mtime_ns == made
    assert bytes_of(tmp_path) == bytes_of(whole)
    assert sorted(path.name for path in (tmp_path / "scans").iterdir()) == sorted(bytes_of(whole))


def test_a_larger_set_keeps_existing_scans(whole, tmp_path):
    shutil.copytree(whole / "scans", tmp_path / "scans")
    make(tmp_path, "datasets.n_cases=4")
    before = bytes_of(whole)
    assert {name: bytes_of(tmp_path)[name] for name in before} == before
    assert len(bytes_of(tmp_path)) == 4


def test_scans_do_not_depend_on_the_basis_materials(whole):
    before = bytes_of(whole)
    make(whole, "physics.materials=[water,iodine]")
    assert bytes_of(whole) == before
    assert read_scan(whole / "scans/head_00000.h5").materials == ("water", "calcium")


def test_scans_of_other_settings_are_rejected(whole):
    before = bytes_of(whole)
    with pytest.raises(EXPECTED, match=r"scan\.grid_transmission \(.*0\.3\)"):
        make(whole, "scan.grid_transmission=0.2")
    assert bytes_of(whole) == before


def rerecorded(path, change):
    """Change the recorded settings of a scan file."""
    with h5py.File(path, "a") as file:
        settings = yaml.safe_load(file.attrs["config"])
        change(settings)
        file.attrs["config"] = yaml.safe_dump(settings, sort_keys=False)


def test_null_counts_as_absent_in_recorded_settings(whole, tmp_path):
    shutil.copytree(whole / "scans", tmp_path / "scans")
    first, second, third = sorted((tmp_path / "scans").iterdir())
    with h5py.File(first) as file:
        assert "null" not in file.attrs["config"]
    rerecorded(first, lambda settings: settings["scan"].update(spr=None))
    rerecorded(second, lambda settings: settings["datasets"].update(gone={"key": None}))
    before = bytes_of(tmp_path)
    make(tmp_path)
    assert bytes_of(tmp_path) == before
    rerecorded(third, lambda settings: settings["scan"].pop("grid_transmission"))
    with pytest.raises(EXPECTED, match=r"head_00002.*scan\.grid_transmission \(recorded: null\)"):
        make(tmp_path)


def test_a_new_key_that_is_null_keeps_the_name_of_the_folder(tmp_path):
    names = [composed(tmp_path, *words, name="simulate").folder for words in ([], NULLS)]
    assert names[0] == names[1]
    assert composed(tmp_path, "scan.grid_transmission=0.2", name="simulate").folder != names[0]


def test_a_damaged_scan_is_named(whole, tmp_path):
    shutil.copytree(whole / "scans", tmp_path / "scans")
    (tmp_path / "scans" / "head_00002.h5").write_bytes(b"no HDF5")
    with pytest.raises(EXPECTED, match=r"head_00002\.h5 .*: delete it"):
        make(tmp_path)
    (tmp_path / "scans" / "head_00002.h5").unlink()  # the remedy in the message
    make(tmp_path)
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_train_finds_the_scans_of_simulate(whole, tmp_path, monkeypatch):
    """By default in the same folder, and in any other one with datasets=scans."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    words = [*SMALL, "experiment=scatter_direct", "logger=none", "study.split=[1,1,1]"]
    words += ["trainer.max_epochs=0", "trainer.callbacks=null", "scatter.correction.grid=[2,3]"]
    config = composed(tmp_path / "run", *words)
    shutil.copytree(whole / "scans", tmp_path / config.study.scans.folder / "scans")
    shutil.copytree(whole / "scans", tmp_path / "elsewhere")
    monkeypatch.setattr(simulated_scans, "write_scan", None)  # nothing is simulated
    run.run(config)
    found = read_numbers(tmp_path / "run")
    words = [word for word in words if not word.startswith("datasets")]
    run.run(composed(tmp_path / "again", *words, "datasets=scans", "datasets.folder=elsewhere"))
    again = read_numbers(tmp_path / "again")
    assert again["spr_percent"] == pytest.approx(found["spr_percent"], rel=1e-5)


def test_a_data_set_of_slices_is_rejected(tmp_path):
    config = composed(tmp_path, "datasets=axial_slice", f"folder={tmp_path}", name="simulate")
    with pytest.raises(EXPECTED, match=r"AxialSlice.*datasets=nifti"):
        run.run(config)


@pytest.mark.parametrize("shard", ["2/2", "-1/2", "half", "1"])
def test_an_invalid_shard_is_rejected(tmp_path, shard):
    with pytest.raises(EXPECTED, match="shard"):
        make(tmp_path, f"shard='{shard}'")
    assert not list(tmp_path.iterdir())


def test_a_response_table_is_made(tmp_path):
    make(
        tmp_path,
        "detector=silicon",
        "detector.n_histories=1000",
        "detector.first_keV=40.5",
        "detector.last_keV=42.5",
        f"response_folder={tmp_path}",
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["silicon_60mm.csv", "silicon_60mm_pairs.npz"]


def test_an_impossible_folder_is_rejected_before_the_simulation(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(simulated_scans, "write_scan", None)
    with pytest.raises(OSError, match="file"):
        make(tmp_path / "file")


def test_scans_do_not_depend_on_the_number_of_threads(whole, tmp_path):
    before = torch.get_num_threads(), numba.get_num_threads()
    try:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
        torch.set_num_threads(2)
        make(tmp_path, "n_threads=2")
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_an_error_of_the_command_is_one_line(tmp_path):
    command = [sys.executable, str(REPOSITORY / "simulate.py"), "datasets=nifti"]
    done = subprocess.run(
        [*command, f"folder={tmp_path}"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("pcctlearn: datasets.path")


# -- several jobs in one folder

COUNTED = """
import os, runpy, sys
from pcctlearn.simulation import scans as simulated_scans
from pcctlearn.runs.results import StudyResults, write_results
from pcctlearn.figures.arrays import read_numbers
write = simulated_scans.write_scan
def noted(path, scan):
    write(path, scan)
    with open(notes, "a") as file:
        file.write(f"{os.getpid()} {path.name}\\n")
simulated_scans.write_scan = noted
notes = sys.argv.pop(1)
runpy.run_path("simulate.py", run_name="__main__")
"""


def test_jobs_started_together_make_every_scan_once(whole, tmp_path):
    folder, notes = tmp_path / "set", tmp_path / "notes"
    words = [*SMALL, f"folder={folder}", "n_threads=1"]
    command = [sys.executable, "-c", COUNTED, str(notes), *words]
    jobs = [subprocess.Popen(command, cwd=REPOSITORY) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    made = [line.split()[1] for line in notes.read_text().splitlines()]
    assert sorted(made) == [f"head_0000{k}.h5" for k in range(3)]
    assert bytes_of(folder) == bytes_of(whole)
    assert sorted(path.name for path in (folder / "scans").iterdir()) == sorted(made)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_waiting_job_makes_the_scans_of_a_job_that_was_killed(whole, tmp_path):
    (tmp_path / "scans").mkdir()
    hold = (
        "import sys, time; from pathlib import Path; from pcctlearn.files.locks import locked\n"
        "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    lock = str(tmp_path / "scans/.head_00000.h5.lock")
    other = subprocess.Popen(
        [sys.executable, "-c", hold, lock], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    other.stdout.readline()
    stop = threading.Timer(1.0, other.kill)
    stop.start()
    make(tmp_path)
    assert other.wait() == -signal.SIGKILL
    other.stdout.close()
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_the_report_of_a_smaller_set_is_removed_before_a_larger_one_is_made(
    whole, tmp_path, monkeypatch, capsys
):
    shutil.copytree(whole, tmp_path / "set")

    def stop(path, scan):
        assert [entry.name for entry in (tmp_path / "set").iterdir()] == ["scans"]
        raise KeyboardInterrupt

    monkeypatch.setattr(simulated_scans, "write_scan", stop)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "set", "datasets.n_cases=4")
    assert not (tmp_path / "set/results.json").exists()
    make(tmp_path / "set", "datasets.n_cases=2")
    assert "head_00002.h5" in capsys.readouterr().out  # belongs to the larger set
    assert json.loads((tmp_path / "set/results.json").read_text())["n_scans"] == 2


def test_names_of_cases_are_checked_at_the_start(tmp_path, monkeypatch):
    names = property(lambda self: ["head_1", "..", "head_3"])
    monkeypatch.setattr("pcctlearn.patients.procedural.ProceduralCases.names", names)
    with pytest.raises(EXPECTED, match=r"case \.\."):
        make(tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_replaced_response_table_is_reported(tmp_path, capsys):
    words = ["detector.n_histories=1000", "detector.first_keV=40.5", "detector.last_keV=42.5"]
    for verb in ("wrote", "replaced"):
        make(tmp_path, "detector=silicon", *words, f"response_folder={tmp_path}")
        assert capsys.readouterr().out.count(f"{verb} {tmp_path}") == 2


def test_results_of_another_command_in_the_folder_are_kept(tmp_path, monkeypatch):
    write_results(StudyResults({"error_HU": 1.0}, {}), tmp_path)
    monkeypatch.setattr(simulated_scans, "write_scan", None)
    with pytest.raises(TypeError, match="NoneType"):
        make(tmp_path)
    assert read_numbers(tmp_path / "earlier_1") == {"error_HU": 1.0}
