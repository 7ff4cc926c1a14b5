"""Slices scanned with a fan or parallel beam are decomposed, reconstructed and judged."""

import json
from dataclasses import replace

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from support.configs import composed
from support.scan_files import change, label, store
from support.scanners import FOUR_BINS, scanner

from pcctlearn.app.run import run as run_job
from pcctlearn.patients.procedural import ProceduralCases
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.scans.file import faults, read_scan, write_scan
from pcctlearn.scans.flat_field import pixels_to_fill
from pcctlearn.scatter.checkpoint import CorrectionBuilder
from pcctlearn.scatter.uniform import UniformScatter
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import VolumeGrid

GRID = VolumeGrid(1, 52, 44, (0.5, 0.5, 0.55), center_cm=(1.0, 0.0, 0.0))
BEAMS = {
    "fan": FanBeam(120, 64, 0.8, 62.5, 109.7),
    "short_fan": FanBeam(100, 64, 0.8, 62.5, 109.7, arc_rad=4.2),
    "parallel": ParallelBeam(90, 64, 0.45),
}


@pytest.fixture(autouse=True)
def _as_the_command():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def simulated(path, beam, edges_keV=FOUR_BINS):
    made = ScanSimulator(BEAMS[beam], GRID, scanner(edges_keV=edges_keV, photons=1e6))
    maps = ProceduralCases("head", 1).maps(0, GRID)
    write_scan(path, made.scan(maps, "head", 3))
    return path


def evaluated(path, folder, *overrides):
    words = [f"scans={path}", f"folder={folder}", "filter=hamming", *overrides]
    run_job(composed(folder, *words, name="evaluate"))
    return json.loads((folder / "results.json").read_text())


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize("beam", BEAMS)
def test_maps_and_images_are_those_of_the_object(tmp_path, beam):
    path = simulated(tmp_path / "head.h5", beam)
    numbers = evaluated(path, tmp_path / "out", "scatter=none")
    assert numbers["rays_not_converged_percent"] == 0
    assert numbers["voxels_unknown_percent"] == numbers["dead_pixels"] == 0
    assert not any("rmse" in name for name in numbers)  # of scatter, of which there is none
    assert abs(numbers["vmi60_error_HU.mean"]) < 30
    assert abs(numbers["projection_water_error_g_cm2.mean"]) < 0.02
    assert "VMI 60 keV (HU)" in (tmp_path / "out/report.html").read_text()
    assert (tmp_path / "out/figures/head_slices.png").stat().st_size > 0
    stored = np.asarray(nib.load(tmp_path / "out/head/water.nii.gz").dataobj)
    water = torch.from_numpy(stored[::-1, ::-1].transpose(2, 1, 0).copy())
    truth = 1000 * read_scan(path).at("maps")[0]
    inside = torch.nn.functional.max_pool2d((truth - 1030).abs(), 7, 1, 3) < 40  # of the brain
    assert inside.sum() > 50
    assert (water - truth)[inside].mean().abs() < 10  # mg/mL
    with h5py.File(tmp_path / "out/head/projections.h5") as file:
        assert file["line_integrals"].shape == (2, *BEAMS[beam].shape[:1], 1, 64)


@pytest.mark.filterwarnings("ignore:truncated")
def test_counts_above_thresholds_give_the_same_results(tmp_path):
    # with an upper limit above all that is registered, as counts above thresholds
    path = simulated(tmp_path / "head.h5", "fan", [*FOUR_BINS[:-1], 200.0])
    expected = evaluated(path, tmp_path / "bins", "scatter=none")
    scan = read_scan(path)
    for name in ("counts", "air"):
        values = above_from_bins(scan.at(name).double(), dim=0).numpy()
        change(path, lambda file, name=name, values=values: store(file, name, values))
    change(path, label("/", counted="above"))
    assert faults(path) == []
    found = evaluated(path, tmp_path / "above", "scatter=none")
    for name, value in expected.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


@pytest.mark.filterwarnings("ignore:truncated")
def test_dead_pixels_of_a_row_are_filled(tmp_path):
    path = simulated(tmp_path / "head.h5", "fan")
    scan = read_scan(path)
    counts, air = scan.at("counts").clone(), scan.air.clone()
    counts[:, :, 0, 30], air[:, 0, 12] = 0, torch.nan
    write_scan(path, replace(scan, counts=counts, air=air))
    numbers = evaluated(path, tmp_path / "out", "scatter=none")
    assert numbers["dead_pixels"] == 2


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize("beam", ["fan", "parallel"])
def test_the_remedy_for_missing_views_works(tmp_path, beam):
    path = simulated(tmp_path / "head.h5", beam)
    scan = read_scan(path, {"counts"})
    counts = scan.at("counts").clone()
    counts[:, 7] = 0
    with pytest.raises(ValueError, match=r"views.*7.*measured_angles_rad"):
        pixels_to_fill(replace(scan, counts=counts), 0.05)
    kept = [view for view in range(scan.geometry.n_views) if view != 7]
    angles = scan.geometry.angles_rad[kept]
    geometry = replace(scan.geometry, n_views=len(kept), view_angles_rad=angles)
    write_scan(path, replace(scan, counts=counts[:, kept], geometry=geometry))
    assert pixels_to_fill(read_scan(path), 0.05)
    assert fbp(geometry, GRID, truncation="cosine") is not None


def test_scatter_corrections_need_a_cone_beam():
    build = CorrectionBuilder(UniformScatter)
    with pytest.raises(ValueError, match=r"FanBeam.*scatter=none"):
        build.ready(BEAMS["fan"], scanner())
    assert CorrectionBuilder(None).ready(BEAMS["fan"], scanner()) is None
