"""Compared runs are named by what differs; seeds are averaged, and scans are paired."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.stats import wilcoxon
from support.studies import REPOSITORY

from pcctlearn.app.comparison import compare
from pcctlearn.app.sweeps import CompareJobs
from pcctlearn.runs.finished import by_setting, finished_jobs
from pcctlearn.runs.folder import held
from pcctlearn.studies.scatter_table import scatter_table

METRIC = "vmi60_rmse_HU"


def job(folder, words, numbers, arrays=None):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    (folder / "results.json").write_text(json.dumps(numbers))
    with h5py.File(folder / "arrays.h5", "w") as file:
        for name, values in (arrays or {}).items():
            file[name] = values
    return folder


def sweep(folder):
    values = iter([1.0, 3.0, 10.0, 20.0])
    for number, (loss, seed) in enumerate((a, s) for a in ("direct", "maps") for s in (1, 2)):
        words = ["logger=none", f"losses={loss}", f"seed={seed}"]
        job(folder / f"{number}_study", words, {"error_HU": next(values), "n": 2.0})
    return folder


def test_runs_are_grouped_by_the_overrides_that_differ_except_the_seed(tmp_path):
    settings = by_setting(finished_jobs(sweep(tmp_path)))
    assert {name: len(jobs) for name, jobs in settings.items()} == {"direct": 2, "maps": 2}


def test_numbers_in_names_are_rounded_if_the_names_still_differ(tmp_path):
    rates = {"near": ("0.00123456", "0.00123457"), "far": ("0.00123456", "0.0567891")}
    for name, some in rates.items():
        for rate in some:
            job(tmp_path / name / rate, [f"optimizer.lr={rate}"], {})
    assert set(by_setting(finished_jobs(tmp_path / "far"))) == {"0.00123", "0.0568"}
    assert set(by_setting(finished_jobs(tmp_path / "near"))) == set(rates["near"])


@pytest.mark.parametrize("word", ["~losses.terms.vmi", "experiment=default", "a=b/c"])
def test_a_run_without_overrides_is_named_default(tmp_path, word):
    job(tmp_path / "0", [], {})
    job(tmp_path / "1", [word], {})
    settings = by_setting(finished_jobs(tmp_path))
    assert len(settings) == 2
    assert "default" in settings


def test_runs_without_a_common_result_are_refused(tmp_path):
    for name in "ab":
        job(tmp_path / name, [f"experiment={name}"], {name: 1.0})
    command = [sys.executable, "-m", "pcctlearn", "compare", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no result in common" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_scatter_runs_without_materials_are_averaged(tmp_path):
    for name in "ab":
        arrays = judged(np.ones(3), before=50.0 * np.ones(3))
        del arrays["materials"]
        job(tmp_path / name, [f"study={name}"], {"error_HU": 1.0}, arrays)
    assert compare(tmp_path)


def test_numbers_are_means_over_seeds(tmp_path, capsys):
    report = compare(sweep(tmp_path))
    numbers = json.loads((tmp_path / "comparison/results.json").read_text())
    assert numbers["error_HU.direct"] == 2.0
    assert numbers["error_HU.maps.sd"] == pytest.approx(50**0.5)
    assert report.is_file()
    assert (tmp_path / "comparison/figures/numbers.png").is_file()
    assert "error_HU" in capsys.readouterr().out


@pytest.mark.parametrize("same", [True, False])
def test_images_of_one_slice_are_drawn_side_by_side(tmp_path, same):
    for name, n in (("a", 6), ("b", 6 if same else 7)):
        arrays = {
            f"case/axial.{label}": np.ones((n, 6)) for label in ("vmi_66keV_HU", "water_mg_mL")
        }
        job(tmp_path / name, [f"pixel_model={name}"], {"error_HU": 1.0}, arrays)
    compare(tmp_path)
    assert (tmp_path / "comparison/figures/images.png").is_file() == same
    with h5py.File(tmp_path / "comparison/arrays.h5") as file:
        assert set(file.get("images", ())) == ({"a", "b"} if same else set())


def test_fewer_than_two_runs_are_not_compared(tmp_path):
    assert compare(tmp_path) is None
    job(tmp_path / "0_study", ["seed=1"], {"error_HU": 1.0})
    (tmp_path / "1_failed").mkdir()
    assert compare(tmp_path) is None
    assert not (tmp_path / "comparison").exists()


def judged(corrected, before=(50.0, 60.0, 70.0)):
    rng = np.random.default_rng(0)
    arrays = {
        f"errors/{METRIC}.uncorrected": np.array(before),
        f"errors/{METRIC}.corrected": np.array(corrected),
        f"errors/noisy_{METRIC}.uncorrected": np.array(before),
        f"errors/noisy_{METRIC}.corrected": np.array(corrected),
    }
    arrays["materials"] = np.array([b"water", b"calcium"])
    for method in ("uncorrected", "corrected", "reference"):
        arrays[f"{method}/vmi_HU"] = rng.normal(size=(4, 6, 5))
        arrays[f"{method}/axial_maps"] = rng.normal(size=(2, 6, 5))
        arrays[f"{method}/line_integrals"] = rng.normal(size=(2, 4, 6))
    return arrays


def test_a_table_of_scatter_corrections(tmp_path):
    """The names of the settings contain slashes and points."""
    scans = np.arange(6.0)
    errors = {"a/1": (5 + scans, 7 + scans), "a/0.1": (2 + 2 * scans, 2 + 2 * scans)}
    for loss, seeds in errors.items():
        for seed, values in enumerate(seeds):
            words = [f"losses={loss}", f"seed={seed}"]
            job(tmp_path / f"{loss}{seed}", words, {}, judged(values, before=40 + 10 * scans))
    compare(tmp_path)
    numbers = json.loads((tmp_path / "comparison/results.json").read_text())
    assert numbers[f"{METRIC}.a:1"] == 8.5  # of 7.5 and 9.5
    assert numbers[f"{METRIC}.a:1.sd"] == pytest.approx(np.std(scans, ddof=1))
    assert numbers[f"{METRIC}_over_uncorrected.a:1.sd"] == pytest.approx(2**0.5 / 65)
    (pair,) = (key.partition(".")[2] for key in numbers if key.startswith(f"{METRIC}_p."))
    a, b = (errors[name.replace(":", "/")] for name in pair.split(" minus "))
    difference = np.mean(a, 0) - np.mean(b, 0)
    assert numbers[f"{METRIC}_difference.{pair}"] == difference.mean()
    assert numbers[f"{METRIC}_p.{pair}"] == wilcoxon(difference).pvalue
    drawn = {path.stem for path in (tmp_path / "comparison/figures").iterdir()}
    assert drawn == {"images", "maps", "projections", "boxes"}


def test_few_scans_have_no_p_value(tmp_path):
    runs = {name: [job(tmp_path / name, [], {}, judged([1.0, 2.0, 3.0]))] for name in "ab"}
    numbers = scatter_table(runs).numbers
    assert f"{METRIC}_difference.a minus b" in numbers
    assert not any("_p." in name for name in numbers)
    assert f"{METRIC}_over_uncorrected.a.sd" not in numbers  # of one run


def test_runs_judged_on_other_scans_are_refused(tmp_path):
    a = job(tmp_path / "a", [], {}, judged([1.0, 2.0, 3.0]))
    b = job(tmp_path / "b", [], {}, judged([1.0, 2.0, 3.0], before=(40.0, 60.0, 70.0)))
    with pytest.raises(ValueError, match=r"different test scans"):
        scatter_table({"a": [a], "b": [b]})


def test_runs_judged_on_other_scans_have_their_means_compared(tmp_path, caplog):
    for name, n in (("a", 3), ("b", 2)):
        arrays = judged(np.ones(n), before=50.0 * np.ones(n))
        job(tmp_path / "deep" / name, [f"study={n}"], {"error_HU": float(n)}, arrays)
    assert compare(tmp_path)
    numbers = json.loads((tmp_path / "comparison/results.json").read_text())
    assert numbers == {"error_HU.3": 3.0, "error_HU.2": 2.0}
    assert "different test scans" in caplog.text


def test_the_callback_of_a_sweep_compares_its_jobs(tmp_path):
    sweep(tmp_path)
    CompareJobs().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert (tmp_path / "comparison/report.html").is_file()


# -- which outputs count as finished runs


def test_overrides_are_read_from_the_results(tmp_path):
    """A later run in the same folder rewrites .hydra, but not the results."""
    for name in "ab":
        folder = job(tmp_path / name, [f"losses={name}"], {"error_HU": 1.0})
        with h5py.File(folder / "arrays.h5", "a") as file:
            file.attrs["overrides"] = json.dumps([f"losses={name}"])
    (tmp_path / "b/.hydra/overrides.yaml").write_text("- losses=of another run\n")
    assert set(by_setting(finished_jobs(tmp_path))) == {"a", "b"}


def test_results_without_overrides_are_used_unless_a_later_run_was_started(tmp_path):
    for name in "ab":
        job(tmp_path / name, [f"losses={name}"], {"error_HU": 1.0})
    assert len(finished_jobs(tmp_path)) == 2
    words = tmp_path / "b/.hydra/overrides.yaml"
    words.write_text("- losses=of another run\n")
    later = (tmp_path / "b/results.json").stat().st_mtime_ns + 10**9
    os.utime(words, ns=(later, later))
    assert [run.folder.name for run in finished_jobs(tmp_path)] == ["a"]


def test_moved_hidden_damaged_and_unfinished_runs_are_left_out(tmp_path, caplog):
    for name in ("a", "b", "a/earlier_1", ".trash/c", "damaged", "unfinished"):
        job(tmp_path / name, [f"losses={name}"], {"error_HU": 1.0})
    (tmp_path / "unfinished/results.json").unlink()
    whole = (tmp_path / "damaged/arrays.h5").read_bytes()
    (tmp_path / "damaged/arrays.h5").write_bytes(whole[: len(whole) // 2])
    assert [run.folder.name for run in finished_jobs(tmp_path)] == ["a", "b"]
    assert "damaged is left out" in caplog.text
    assert len(finished_jobs(tmp_path / "a/earlier_1")) == 1  # the folder itself is given


def test_a_new_comparison_removes_the_files_of_the_previous_one(tmp_path):
    sweep(tmp_path)
    compare(tmp_path)
    first = {path.name for path in (tmp_path / "comparison").rglob("*")}
    (tmp_path / "comparison/figures/drawn_no_longer.png").write_text("")
    (tmp_path / "comparison/.results.json.elsewhere.1.1.part").mkdir()
    compare(tmp_path)
    assert {path.name for path in (tmp_path / "comparison").rglob("*")} == first


def test_a_second_sweep_in_a_folder_is_refused(tmp_path):
    with held(tmp_path / "sweep", "hydra.sweep.dir"):
        words = ["-m", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
        command = [sys.executable, str(REPOSITORY / "train.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 2
        assert "in use" in done.stderr
        assert "hydra.sweep.dir=FOLDER" in done.stderr
        assert [path.name for path in (tmp_path / "sweep").iterdir()] == [".lock"]
