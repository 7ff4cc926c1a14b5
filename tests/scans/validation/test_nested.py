"""Counts above thresholds that increase with the threshold are dead, or refused in most rays."""

import re
import tracemalloc

import h5py
import numpy as np
import pytest
import torch
from support.scan_files import change, edit, label, recorded, store

from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.scans import counted
from pcctlearn.scans.counted import InBins, to_bins
from pcctlearn.scans.dead_pixels import any_of, dead_pixels
from pcctlearn.scans.file import faults, read_scan, summary
from pcctlearn.scans.flat_field import pixels_to_fill
from pcctlearn.scans.validation import nested


@pytest.fixture
def above(copy):
    """A file of counts above thresholds."""
    scan = recorded()
    for name in ("counts", "air"):
        values = above_from_bins(getattr(scan, name), dim=0).numpy()
        change(copy, lambda file, name=name, values=values: store(file, name, values))
    change(copy, label("/", counted="above"))
    return copy


def test_counts_above_thresholds_are_read_as_bins(above):
    assert faults(above) == []
    scan = read_scan(above)
    assert torch.equal(scan.at("counts"), recorded().at("counts"))
    torch.testing.assert_close(scan.air, recorded().air)
    assert scan.at("counts").dtype == scan.air.dtype == torch.float32
    assert torch.equal(scan.at("primary"), recorded().at("primary"))
    assert len(re.findall("photons, above thresholds", summary(above))) == 2


def test_whole_numbers_and_noise_free_counts(above):
    whole = above_from_bins(recorded().at("counts"), dim=0).numpy().astype(np.uint16)
    change(above, lambda file: store(file, "counts", whole))
    assert torch.equal(read_scan(above).at("counts"), recorded().at("counts"))
    falling = torch.tensor([1e7 / 3, 1e7 / 3 * (1 + 1e-7), 0.0])
    torch.testing.assert_close(to_bins(falling)[:2], torch.tensor([0.0, 1e7 / 3]))


def test_a_pixel_whose_counts_rise_is_dead(above):
    change(above, edit("counts", (1, 3, 2, 4), 1e6))
    assert faults(above) == []
    scan = read_scan(above)
    (doubt,) = [sentence for sentence in scan.doubts if "increase" in sentence]
    assert "counts" in doubt
    assert "1 of 20 pixels" in doubt
    assert "1e+06 above threshold 1 at view 3, row 2, column 4" in doubt
    dead = any_of(dead_pixels(scan.at("counts"), scan.air))
    assert dead.nonzero().tolist() == [[2, 4]]


def test_single_counts_that_rise_in_every_pixel_do_not_refuse_the_scan(above):
    """They are dead, and the share of dead pixels is for the evaluation to limit."""
    counts = read_scan(above).at("counts").double()
    values = above_from_bins(counts, dim=0)
    for row, column in np.ndindex(4, 5):
        values[1, (row + column) % 6, row, column] = 1e6
    change(above, lambda file: store(file, "counts", values.numpy()))
    assert faults(above) == []
    scan = read_scan(above)
    assert any("20 of 20 pixels" in doubt for doubt in scan.doubts)
    assert any_of(dead_pixels(scan.at("counts"), scan.air)).all()
    with pytest.raises(ValueError, match="max_dead_share"):
        pixels_to_fill(scan, 0.05)


@pytest.mark.parametrize("name", ["counts", "air"])
def test_counts_that_rise_in_most_rays_are_refused(above, name):
    change(above, lambda file: store(file, name, file[name][()][::-1]))
    found = [fault for fault in faults(above) if "with the threshold" in fault]
    assert len(found) == 1
    assert found[0].startswith(f"{name} increase")
    assert "20 of 20 pixels" in found[0]
    assert "row 0, column 0" in found[0]
    assert "counted to 'bins'" in found[0]


def test_counts_above_the_last_threshold_have_no_upper_limit(above):
    """What a finite energy resolution registers above the spectrum is in the last bin too."""
    expected = read_scan(above).spectral_model(["water"]).air()
    for limit in (100.0, 120.0, 500.0):
        change(above, edit("thresholds_keV", 2, limit))
        assert faults(above) == []
        scan = read_scan(above)
        assert scan.thresholds_keV[-1] > scan.response.deposited_keV[-1]
        torch.testing.assert_close(scan.spectral_model(["water"]).air(), expected)


def test_dead_pixels_that_are_nan_do_not_rise(above):
    change(above, edit("counts", (slice(None), slice(None), 1, 1), np.nan))
    assert faults(above) == []
    assert not [sentence for sentence in read_scan(above).doubts if "increase" in sentence]


def test_all_counts_are_converted_in_little_memory(above):
    """In float64 at once, the conversion would need more than six times the result."""
    n_views = 120_000
    with h5py.File(above, "r+") as file:
        counts = np.tile(file["counts"][()].astype("uint16"), (1, n_views // 6, 1, 1))
        stored = InBins(file.create_dataset("many", data=counts)).astype("float32")
        tracemalloc.start()
        bins = stored[()]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert bins.dtype == np.float32
        assert peak < 1.5 * bins.nbytes
        np.testing.assert_array_equal(bins[:, -6:], recorded().at("counts"))


def test_large_files_are_read_in_blocks(above, monkeypatch):
    for module in (counted, nested):
        monkeypatch.setattr(module, "_BLOCK_BYTES", 1)
    change(above, edit("counts", (1, 3, 2, 4), 1e6))
    assert any("view 3, row 2, column 4" in sentence for sentence in read_scan(above).doubts)
