"""Frames of a simulated bench have the statistics and the flaws that were asked for."""

import re

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from support.benches import bench_of, written
from support.configs import composed

from pcctlearn.app.run import run
from pcctlearn.bench.importer import import_bench
from pcctlearn.simulation.bench_files import bench_files


def frames(bench, name):
    (of,) = [m for m in bench.measurements() if m.name == name]
    return np.concatenate([*bench.frames(of)]), of


def test_counts_are_poisson_distributed_and_nested():
    counts, _ = frames(bench_of(), "air_before")
    values = counts[:, :, 0].astype(float)
    assert (counts[:, 1] <= counts[:, 0]).all()
    ratio = values.var(0, ddof=1) / values.mean(0)
    assert abs(ratio.mean() - 1) < 4 * np.sqrt(2 / values.size)
    in_bins = values[:, 0] - values[:, 1], values[:, 1]
    together = [np.corrcoef(*pair)[0, 1] for pair in zip(in_bins[0].T, in_bins[1].T, strict=True)]
    assert abs(np.mean(together)) < 4 / np.sqrt(values.size / 2)


def test_the_monitor_follows_the_tube():
    bench = bench_of(drift=0.1, monitor_error=1e-3)
    counts, of = frames(bench, "scan")
    ratio = bench.monitor(of) / bench.exposure(of)
    assert ratio.std() / ratio.mean() < 1.5e-3
    assert bench.exposure(of).max() > 1.05
    beside = counts[:, 0, 0, 0] / bench.exposure(of).numpy()  # a pixel beside the phantom
    assert beside.std() < 1.2 * np.sqrt(beside.mean())


def test_dark_frames_have_the_counts_of_noisy_pixels_only():
    bench = bench_of(noisy_share=0.2, dead_share=0.1, seed=3)
    dark, _ = frames(bench, "dark")
    air, _ = frames(bench, "air_after")
    counting, noisy = dark.sum((0, 1, 2)) > 0, bench._dark[0].numpy() > 0
    np.testing.assert_array_equal(counting, noisy & ~bench.dead[0].numpy())
    assert counting.any()
    assert not air[:, :, bench.dead.numpy()].any()
    assert bench.dead.any()


def test_counters_end_at_their_limit():
    air, _ = frames(bench_of(counter_bits=12), "air_before")
    assert air.dtype == np.uint16
    assert (air == 4095).mean() > 0.4
    assert air.max() == 4095


@pytest.mark.parametrize("file_format", ["npy", "tif"])
def test_all_formats_hold_the_same_frames(file_format, tmp_path):
    if file_format == "tif":
        pytest.importorskip("tifffile", reason="an option, pip install tifffile")
    other = bench_of(file_format=file_format)
    one, another = (
        import_bench(written(tmp_path / bench.file_format, bench)) for bench in (bench_of(), other)
    )
    assert {path.name for path in (tmp_path / file_format).iterdir()} == set(bench_files(other))
    torch.testing.assert_close(one.scan.counts, another.scan.counts, equal_nan=True)
    torch.testing.assert_close(
        one.plates.plates.counts, another.plates.plates.counts, equal_nan=True
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_modules": 3}, r"3 modules with 3.*tomography\.geometry\.n_columns="),
        ({"drift": 0.7}, "drift must be below 0.5"),
        ({"dead_share": 0.9}, "noisy_share and dead_share"),
        ({"file_format": "dicom"}, "raw, npy or tif"),
        ({"plates_cm": {"aluminium": [1.0], "PMMA": []}}, "plates_cm must list"),
        ({"frame_s": 0.0}, "frame_s must be positive"),
    ],
)
def test_wrong_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        bench_of(**changes)


@pytest.mark.slow
def test_the_number_of_columns_that_is_offered_can_be_typed(tmp_path):
    words = ["datasets=bench", "datasets.n_modules=5", f"folder={tmp_path}", "n_threads=1"]
    small = ["tomography.geometry.n_columns=50", "tomography.geometry.n_views=4"]
    few = [f"datasets.{word}" for word in ("n_plate=2", "n_air=2", "n_dark=2", "frames_per_view=1")]
    grid = ["tomography.grid.n_y=8", "tomography.grid.n_x=8", "tomography.grid.voxel_cm=3.0"]
    with pytest.raises(InstantiationException) as refused:
        run(composed(tmp_path, *words, *small, name="simulate"))
    (remedy,) = re.findall(r"tomography\S+", str(refused.value.__cause__))
    run(composed(tmp_path, *words, *small, *few, *grid, remedy, name="simulate"))
    assert (tmp_path / "bench.yaml").is_file()
    assert (tmp_path / "report.html").is_file()
