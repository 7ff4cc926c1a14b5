"""Corrections of finished runs are judged together on scans that none of them has seen."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support.scanners import scanner
from support.studies import in_context

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.metrics.errors import Metric
from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.patients.procedural import ProceduralCases
from pcctlearn.runs.results import redraw, write_results
from pcctlearn.scans.file import write_scan
from pcctlearn.scans.source import ScanSource
from pcctlearn.scatter.checkpoint import save_correction
from pcctlearn.scatter.uniform import UniformScatter
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.studies.scatter_judgement import ScatterJudgement
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

TRAINED = ConeBeam(12, 8, 12, 3.84, 62.5, 109.7, arc_rad=4.18879)
TURN = replace(TRAINED, n_views=20, arc_rad=2 * np.pi)
VOLUME = VolumeGrid(24, 28, 24, 1.0)
VMI = "vmi60_rmse_HU"


class Scans(ScanSource):
    geometry, grid, model = TURN, VOLUME, None

    def __init__(self, paths):
        self.paths, self.model = paths, scanner(photons=1e6)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder, cases = tmp_path_factory.mktemp("scans"), ProceduralCases("head", 2, 7)
    torch.set_default_dtype(torch.float32)
    scatter = ObjectScatter(0.3, chunk_histories=50, pixel_cm=3.84)
    simulator = ScanSimulator(
        TURN, VOLUME, scanner(photons=1e6), scatter, scatter_every=2, grid_transmission=0.3
    )
    for index, name in enumerate(cases.names):
        scan = simulator.scan(cases.maps(index, VOLUME), name, index)
        write_scan(folder / f"{name}.h5", scan)
    return sorted(folder.iterdir())


def finished_run(folder, scatter_over_air):
    """A run of a scatter study that has fitted uniform scatter."""
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"n": 1.0}))
    with h5py.File(folder / "arrays.h5", "w") as file:
        file.attrs["overrides"] = json.dumps(["scatter=uniform"])
    correction = UniformScatter(TRAINED, scanner(photons=1e6))
    correction.scatter_over_air.fill_(scatter_over_air)
    save_correction(folder / "checkpoints/best.ckpt", correction, TRAINED, scanner(photons=1e6))


@pytest.fixture
def runs(tmp_path):
    for name, scatter in (("none/1", 0.0), ("some/1", 0.002), ("some/2", 0.004)):
        finished_run(tmp_path / name, scatter)
    return {"none": str(tmp_path / "none"), "some": str(tmp_path / "some")}


def test_corrections_are_judged_on_the_same_scans_and_seeds_are_averaged(scans, runs, tmp_path):
    torch.set_default_dtype(torch.float32)
    results = ScatterJudgement(runs, Scans(scans), MaximumLikelihood).run(in_context())
    numbers = results.numbers
    assert numbers[f"{VMI}_over_uncorrected.none"] == pytest.approx(1, abs=1e-6)
    assert numbers[f"noisy_{VMI}.none"] == pytest.approx(numbers[f"noisy_{VMI}.uncorrected"])
    assert 0 < numbers[f"noisy_{VMI}.noise_alone"] < numbers[f"noisy_{VMI}.some"]
    single = []
    for run in (1, 2):
        alone = {"one": f"{runs['some']}/{run}"}
        found = ScatterJudgement(alone, Scans(scans), MaximumLikelihood).run(in_context()).numbers
        single.append(found[f"{VMI}.one"])
    assert single[0] != pytest.approx(single[1], rel=0.01)
    assert numbers[f"{VMI}.some"] == pytest.approx(np.mean(single))
    write_results(results, tmp_path / "out")
    redraw(tmp_path / "out")
    assert len(list((tmp_path / "out/figures").iterdir())) == 4
    assert any("Table II" in table.title for table in results.tables)


def test_only_pictured_methods_keep_their_images(scans, runs):
    torch.set_default_dtype(torch.float32)
    made = ScatterJudgement(runs, Scans(scans), MaximumLikelihood, pictured=["some"])
    arrays = made.run(in_context()).arrays
    assert {"some/vmi_HU", "uncorrected/vmi_HU", "reference/vmi_HU"} <= arrays.keys()
    assert "none/vmi_HU" not in arrays
    assert f"errors/{Metric(VMI).name}.none" in arrays


def test_wrong_runs_are_named(scans, runs, tmp_path):
    with pytest.raises(ValueError, match=r"study.runs=\{direct"):
        ScatterJudgement(None, Scans(scans), MaximumLikelihood)
    with pytest.raises(FileNotFoundError, match="no finished run of images below"):
        ScatterJudgement({"images": str(tmp_path / "x")}, Scans(scans), MaximumLikelihood)
    with pytest.raises(ValueError, match=r"study.pictured=\[none,some\]"):
        ScatterJudgement(runs, Scans(scans), MaximumLikelihood, pictured=["other"])
    (tmp_path / "some/2/checkpoints/best.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="run that study again"):
        ScatterJudgement(runs, Scans(scans), MaximumLikelihood)
