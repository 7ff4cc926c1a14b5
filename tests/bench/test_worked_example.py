"""From raw frames to images, by the commands of docs/bench.md: calibrated pixels have no rings."""

import json

import pytest
import torch
from support.configs import composed

from pcctlearn.app.comparison import compare
from pcctlearn.app.run import run
from pcctlearn.bench.importer import import_frames

SMALL = [
    *("tomography.geometry.n_columns=99", "tomography.geometry.pixel_cm=0.36"),
    *("tomography.geometry.n_views=90", "tomography.grid.n_y=64", "tomography.grid.n_x=64"),
    *("tomography.grid.voxel_cm=0.39", "datasets.n_modules=2", "datasets.n_plate=200"),
    *("datasets.n_air=100", "datasets.noisy_share=0.02", "datasets.dead_share=0.01"),
]


def command(folder, name, *words):
    run(composed(folder, *words, f"folder={folder}", "n_threads=1", name=name))


@pytest.mark.physics
def test_rings_fall_several_fold(tmp_path):
    torch.set_default_dtype(torch.float32)
    command(tmp_path / "bench", "simulate", "datasets=bench", *SMALL)
    assert (tmp_path / "bench/figures/frames.png").is_file()
    import_frames([str(tmp_path / "bench/bench.yaml"), str(tmp_path / "imported")])
    command(tmp_path / "calibrated", "calibrate", f"counts={tmp_path / 'imported/plates.h5'}")
    model = tmp_path / "calibrated/pixel_model.h5"
    results = {}
    for name, more in (("nominal", []), ("calibrated", [f"pixel_model={model}"])):
        folder = tmp_path / "both" / name
        words = [f"scans={tmp_path / 'imported/scan.h5'}", "scatter=none", "vmi_keV=[66.0]"]
        words += ["max_dead_share=0.1"]
        command(folder, "evaluate", *words, *more)
        results[name] = json.loads((folder / "results.json").read_text())
        assert (folder / "scan/vmi_66keV.nii.gz").is_file()
    for material in ("water", "calcium"):
        key = f"projection_{material}_error_g_cm2.pixel_bias"
        assert results["calibrated"][key] < results["nominal"][key] / 4
    assert results["calibrated"]["vmi66_error_HU.rms"] < results["nominal"]["vmi66_error_HU.rms"]
    assert abs(results["calibrated"]["vmi66_error_HU.mean"]) < 2
    assert results["calibrated"]["dead_pixels"] < 12
    report = compare(tmp_path / "both")
    assert (report.parent / "figures/images.png").is_file()
