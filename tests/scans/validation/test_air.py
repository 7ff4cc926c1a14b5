"""Counts and air are compared with each other, with the model and with limits of counters."""

import re

import h5py
import numpy as np
import pytest
import torch
from support.scan_files import change, drop, label, store
from support.scanners import FOUR_BINS, cadmium_telluride, scanner, silicon

from pcctlearn.scans.file import faults, read_scan, summary, write_scan
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

pytestmark = pytest.mark.filterwarnings("ignore:truncated")


def simulated(path, response=None, edges=FOUR_BINS, photons=1e5, columns=32, radius=5, **flaws):
    """A scan of a water cylinder with a calcium rod beside the axis, without the truth."""
    grid = VolumeGrid(4, 24, 24, (1.0, 0.5, 0.5))
    beam = ConeBeam(24, 4, columns, 0.9, 62.5, 109.7)
    y, x = np.meshgrid(*2 * [np.linspace(-6, 6, 24)], indexing="ij")
    maps = torch.zeros(2, *grid.shape)
    maps[0] = torch.from_numpy(x**2 + y**2 < radius**2)
    maps[1] = torch.from_numpy(((x - 2) ** 2 + y**2 < 1) * 0.2)
    model = scanner(edges_keV=edges, photons=photons, response=response or silicon())
    write_scan(path, ScanSimulator(beam, grid, model, **flaws).scan(maps, "cylinder", 0))
    for name in ("primary", "scatter", "scatter_standard_error", "line_integrals", "maps"):
        change(path, drop(name))
    return path


@pytest.fixture
def scan(tmp_path):
    return simulated(tmp_path / "scan.h5")


def edited(path, **edits):
    """Replace counts and air by functions of both."""
    with h5py.File(path) as file:
        arrays = {name: file[name][()].astype(float) for name in ("counts", "air")}
    for name, edit in edits.items():
        change(path, lambda file, name=name, edit=edit: store(file, name, edit(**arrays)))


def above(values):
    return values[::-1].cumsum(0)[::-1]


@pytest.mark.parametrize(
    ("response", "edges"),
    [
        (silicon, FOUR_BINS),
        (cadmium_telluride, FOUR_BINS),
        (silicon, [20.0, 60.0, 120.0]),  # the upper of two CdTe bins holds too little to decide
        (cadmium_telluride, [15.0, 30.0, 70.0, 120.0]),
    ],
)
@pytest.mark.parametrize("photons", [300.0, 1e6])
def test_counts_above_thresholds_are_found_and_the_remedy_works(tmp_path, response, edges, photons):
    path = simulated(tmp_path / "scan.h5", response(), edges, photons, threshold_error_keV=1.0)
    assert faults(path) == []
    assert "above" not in summary(path)
    with h5py.File(path) as file:
        before = file["counts"][()]
    edited(path, counts=lambda counts, air: above(counts), air=lambda counts, air: above(air))
    (fault,) = faults(path)
    assert "air" in fault
    assert "above each threshold" in fault
    change(path, label("/", counted=re.search(r"counted to '(\w+)'", fault).group(1)))
    assert faults(path) == []
    np.testing.assert_allclose(read_scan(path).at("counts"), before, atol=0.1)
    assert ", above thresholds" in summary(path)


@pytest.mark.parametrize("response", [silicon, cadmium_telluride])
def test_bins_that_are_said_to_be_above_thresholds(tmp_path, response):
    path = simulated(tmp_path / "scan.h5", response())
    change(path, label("/", counted="above"))
    (fault, *_) = faults(path)
    assert "counted to 'bins'" in fault
    change(path, label("/", counted="bins"))
    assert faults(path) == []


def test_falling_bins_that_are_said_to_be_above_thresholds(tmp_path):
    path = simulated(tmp_path / "scan.h5", edges=[15.0, 60.0, 80.0, 120.0])
    change(path, label("/", counted="above"))
    (fault,) = faults(path)
    assert "air holds counts in bins" in fault
    assert "counted to 'bins'" in fault


@pytest.mark.parametrize("response", [silicon, cadmium_telluride])
@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("counted", ["bins", "above"])
@pytest.mark.parametrize("cumulated", ["counts", "air"])
def test_counts_in_bins_with_air_above_thresholds(
    tmp_path, response, with_model, counted, cumulated
):
    """The array that disagrees with ``counted`` is named, and its conversion mends the file."""
    path = simulated(tmp_path / "scan.h5", response())
    for group in () if with_model else ("spectrum", "response"):
        change(path, drop(group))
    edited(path, **{cumulated: lambda counts, air: above(counts if cumulated == "counts" else air)})
    change(path, label("/", counted=counted))
    (fault,) = faults(path)
    wrong = cumulated if counted == "bins" else {"counts": "air", "air": "counts"}[cumulated]
    assert fault.startswith(wrong)
    remedy = fault.partition("; store ")[2].partition(" (numpy")[0]
    with h5py.File(path, "r+") as file:
        arrays = {name: file[name][()] for name in ("counts", "air")}
        if "-=" in remedy:
            exec(remedy, arrays)
        else:
            arrays[wrong] = eval(remedy, arrays)
        file[wrong][...] = arrays[wrong]
    assert faults(path) == []


@pytest.mark.parametrize("columns", [8, 32])
def test_hardened_counts_are_not_taken_for_another_kind(tmp_path, columns):
    """Where the object covers the panel, counts over air increase from bin to bin."""
    for radius in (2, 4, 6):
        path = simulated(tmp_path / f"{radius}.h5", columns=columns, radius=radius)
        assert faults(path) == []
        edited(path, counts=lambda counts, air: above(counts), air=lambda counts, air: above(air))
        change(path, label("/", counted="above"))
        assert faults(path) == []


def test_without_a_model_counts_above_thresholds_are_a_warning(scan):
    for group in ("spectrum", "response"):
        change(scan, drop(group))
    edited(scan, counts=lambda counts, air: above(counts), air=lambda counts, air: above(air))
    assert faults(scan) == []
    assert re.search("warning: air .*above thresholds", summary(scan))


def test_a_reversed_response_is_not_reported_as_counts_above_thresholds(scan):
    name = "response/response_per_keV"
    change(scan, lambda file: store(file, name, file[name][()][::-1]))
    (fault,) = faults(scan)
    assert "do not fit spectrum" in fault


def test_bins_in_reverse_and_bins_of_another_detector(scan):
    edited(scan, counts=lambda counts, air: counts[::-1], air=lambda counts, air: air[::-1])
    (fault,) = faults(scan)
    assert "reverse order" in fault
    edited(scan, counts=lambda counts, air: counts[::-1], air=lambda counts, air: air[::-1])
    assert faults(scan) == []
    scale = np.array([1, 4, 1, 1.0])
    edited(scan, air=lambda counts, air: air * scale[:, None, None])
    assert "do not fit spectrum" in faults(scan)[0]


@pytest.mark.parametrize("seed", range(8))
def test_a_real_detector_is_not_refused(scan, seed):
    """Gains of pixels over a factor of four, bins off by 30 %, dead pixels."""
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0.5, 2, (1, 4, 32)) * rng.uniform(0.85, 1.15, (4, 1, 1))
    gain[:, 1, 3] = 0
    edited(
        scan, counts=lambda counts, air: counts * gain[:, None], air=lambda counts, air: air * gain
    )
    assert faults(scan) == []


@pytest.mark.parametrize("factor", [3, 10, 100])
def test_air_of_a_longer_exposure(scan, factor):
    edited(scan, air=lambda counts, air: air * factor)
    (fault,) = faults(scan)
    assert "longer exposure" in fault
    divisor = float(re.search(r"store air / ([\d.]+)", fault).group(1))
    assert divisor == pytest.approx(factor, rel=0.05)
    edited(scan, air=lambda counts, air: air / divisor)
    assert faults(scan) == []


@pytest.mark.parametrize("factor", [3, 10])
def test_air_and_fluence_of_a_longer_exposure(scan, factor):
    """All bins are attenuated equally, which no material does."""
    edited(scan, air=lambda counts, air: air * factor)
    change(
        scan,
        lambda file: store(file, "spectrum/fluence", file["spectrum/fluence"][()] * factor),
    )
    (fault,) = faults(scan)
    assert "another exposure" in fault


def test_an_object_that_covers_the_panel_is_a_warning(tmp_path):
    path = simulated(tmp_path / "covered.h5", columns=8, radius=6)
    assert faults(path) == []
    assert re.search("warning: .*whole panel", summary(path))


def test_fluence_of_another_exposure_is_a_warning(scan):
    change(scan, lambda file: store(file, "spectrum/fluence", file["spectrum/fluence"][()] / 5))
    assert faults(scan) == []
    assert re.search(r"warning: air .*(4\.9|5).* fluence", summary(scan))


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("excess", [1.2, 1.4, 2.3])
def test_counts_that_wrap_are_refused(tmp_path, bits, excess):
    path = simulated(tmp_path / "scan.h5", photons=1e5)
    with h5py.File(path) as file:
        scale = excess * 2**bits / file["air"][()].max()
    rng = np.random.default_rng(0)
    edited(path, counts=lambda counts, air: rng.poisson(scale * counts) % 2**bits,
           air=lambda counts, air: scale * air)  # fmt: skip
    assert any(f"{2**bits - 1}" in f and f"{bits} bits" in f for f in faults(path))


def test_saturated_counters_above_thresholds_are_refused(scan):
    """The lowest threshold counts most; bins of such counters do not show the limit."""
    limit = 0.7 * above(read_scan(scan).air.numpy())[0].min()
    edited(
        scan,
        counts=lambda counts, air: np.minimum(above(counts), np.round(limit)),
        air=lambda counts, air: above(air),
    )
    change(scan, label("/", counted="above"))
    assert any("threshold 0 are saturated" in fault for fault in faults(scan))


@pytest.mark.parametrize("excess", [1.2, 2.3])
def test_counters_above_thresholds_that_wrap_are_named_first(tmp_path, excess):
    """Where the lowest threshold wraps, its counts are below those of the next."""
    path = simulated(tmp_path / "scan.h5", photons=1e5)
    rng = np.random.default_rng(0)
    scale = excess * 2**16 / above(read_scan(path).air.numpy())[0].max()
    edited(
        path,
        counts=lambda counts, air: above(rng.poisson(scale * counts)) % 2**16,
        air=lambda counts, air: scale * above(air),
    )
    change(path, label("/", counted="above"))
    found = faults(path)
    assert "65535" in found[0]
    assert not any("increase" in fault for fault in found)


@pytest.mark.parametrize("level", [0.3, 0.7, 0.98])
def test_saturated_counts_are_refused(scan, level):
    edited(scan, counts=lambda counts, air: np.minimum(counts, np.round(level * air.min())))
    assert any("saturated" in fault or "wrapped" in fault for fault in faults(scan))


def test_counts_near_the_limit_of_a_counter_are_accepted_if_air_is_below_it(scan):
    with h5py.File(scan) as file:
        scale = 0.97 * 65535 / file["counts"][()].max()
    rng = np.random.default_rng(0)
    edited(scan, counts=lambda counts, air: rng.poisson(scale * counts),
           air=lambda counts, air: scale * air)  # fmt: skip
    assert faults(scan) == []


def test_a_drifting_exposure_raises_a_warning_that_the_remedy_removes(scan):
    assert "warning: counts over air" not in summary(scan)
    drift = np.linspace(1, 0.6, 24)[:, None, None]
    edited(scan, counts=lambda counts, air: counts * drift)
    assert faults(scan) == []
    assert "the dataset exposure" in summary(scan)
    with h5py.File(scan, "r+") as file:
        file.create_dataset("exposure", data=drift.ravel()).attrs["unit"] = "1"
    assert "warning: counts over air" not in summary(scan)


@pytest.mark.parametrize("factor", [1.2, 0.8])
def test_air_that_is_20_percent_off_is_a_warning(scan, factor):
    edited(scan, air=lambda counts, air: air * factor)
    assert faults(scan) == []
    assert "warning: counts over air" in summary(scan)
    edited(scan, air=lambda counts, air: air / factor)
    assert "warning: counts over air" not in summary(scan)
