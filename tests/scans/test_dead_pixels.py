"""Dead pixels are found, accepted in files, and filled from their neighbours."""

import numpy as np
import pytest
import torch
from support.scan_files import N_BINS, change, edit

from pcctlearn.scans.dead_pixels import any_of, dead_pixels, filled, missing_views
from pcctlearn.scans.file import faults, read_scan, summary

COUNTS = torch.arange(2 * 3 * 5 * 6, dtype=torch.float64).reshape(2, 3, 5, 6) + 1
AIR = torch.full((2, 5, 6), 500.0)


def dead(counts, air):
    return any_of(dead_pixels(counts, air))


def mask(*pixels):
    dead = torch.zeros(5, 6, dtype=torch.bool)
    for row, column in pixels:
        dead[row, column] = True
    return dead


def test_pixels_that_never_count_are_dead():
    counts = COUNTS.clone()
    counts[..., 1, 4] = 0
    assert torch.equal(dead(counts, AIR), mask((1, 4)))


def test_pixels_without_air_or_with_nan_are_dead():
    counts, air = COUNTS.clone(), AIR.clone()
    counts[1, 2, 0, 3] = torch.nan
    air[0, 4, 5] = 0
    air[1, 2, 2] = torch.nan
    assert torch.equal(dead(counts, air), mask((0, 3), (4, 5), (2, 2)))
    assert not dead(COUNTS, AIR).any()


def test_views_without_counts():
    counts = COUNTS.clone()
    counts[:, 1] = torch.nan
    counts[:, 2] = 0
    counts[0, 0] = torch.nan  # one bin: all bins are needed
    assert missing_views(counts) == [0, 1, 2]
    assert missing_views(COUNTS) == []


def test_filling_keeps_valid_pixels_and_continues_a_plane():
    """On a plane, the mean of the eight neighbours is the value of the pixel, in clusters, too."""
    dead = mask((2, 2), (3, 4), (2, 3), (3, 3))
    spoilt = COUNTS.masked_fill(dead, torch.nan)
    torch.testing.assert_close(filled(spoilt, dead), COUNTS)
    assert torch.equal(filled(spoilt, dead)[..., ~dead], COUNTS[..., ~dead])
    assert torch.equal(filled(COUNTS, mask()), COUNTS)


def test_corners_and_clusters():
    values = torch.zeros(1, 1, 5, 6)
    values[..., 3:] = 12.0
    corner = filled(values.masked_fill(mask((4, 5)), torch.inf), mask((4, 5)))
    assert corner[0, 0, 4, 5] == 12
    cluster = mask(*((row, column) for row in range(3) for column in range(3)))
    inside = filled(torch.full((1, 1, 5, 6), 3.0).masked_fill(cluster, torch.nan), cluster)
    torch.testing.assert_close(inside, torch.full((1, 1, 5, 6), 3.0))


@pytest.mark.parametrize("width", [1, 3, 8])
def test_values_change_linearly_across_a_gap_between_modules(width):
    dead = torch.zeros(1, 20, dtype=torch.bool)
    dead[:, 5 : 5 + width] = True
    ramp = torch.arange(20.0).expand(2, 3, 1, 20).clone()
    torch.testing.assert_close(filled(ramp.masked_fill(dead, torch.nan), dead), ramp)
    steps = torch.where(torch.arange(20) < 6, 0.0, 12.0).expand(1, 1, 4, 20).clone()
    gap = dead.expand(4, 20)
    across = filled(steps.masked_fill(gap, torch.nan), gap)[0, 0]
    wanted = 12 * torch.arange(1, width + 1) / (width + 1)
    torch.testing.assert_close(across[:, 5 : 5 + width], wanted.expand(4, width))


def test_every_filled_pixel_is_the_mean_of_its_neighbours():
    dead = torch.rand(5, 6) < 0.4
    values = filled(COUNTS[0, 0].masked_fill(dead, torch.nan), dead)
    padded = torch.nn.functional.pad(values, (1, 1, 1, 1), value=torch.nan)
    around = padded.unfold(0, 3, 1).unfold(1, 3, 1).flatten(2)
    beside = torch.cat([around[..., :4], around[..., 5:]], -1).nanmean(-1)
    assert dead.sum() > 5
    torch.testing.assert_close(values[dead], beside[dead])


def test_views_and_bins_do_not_mix():
    dead = mask((1, 1))
    both = filled(COUNTS.masked_fill(dead, torch.nan), dead)
    one = filled(COUNTS[1:, 2:].masked_fill(dead, torch.nan), dead)
    torch.testing.assert_close(both[1:, 2:], one)


def test_a_dead_panel_cannot_be_filled():
    with pytest.raises(ValueError, match="all pixels are dead"):
        filled(COUNTS, torch.ones(5, 6, dtype=torch.bool))


def test_dead_pixels_are_accepted_in_counts_and_air(copy):
    change(copy, edit("counts", (1, 4, 2, 3), np.nan))
    change(copy, edit("air", (0, 3, 4), 0))
    change(copy, edit("air", (1, 0, 0), np.nan))
    assert faults(copy) == []
    assert "1 NaN: (2, 3)" in summary(copy)
    scan = read_scan(copy)
    assert dead(scan.at("counts"), scan.air).nonzero().tolist() == [[0, 0], [2, 3], [3, 4]]
    assert read_scan(copy, ["spectrum"]).counts is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (edit("counts", (1, 4, 2, 3), np.inf), "counts: 1 .*column 3.* infinite"),
        (edit("counts", (1, 4, 2, 3), -2.0), "counts: 1 .*column 3.* negative"),
        (edit("air", (0, 3, 4), np.inf), "air: 1 .*column 4.* infinite"),
        (edit("air", (0, 3, 4), -1.0), "air: 1 .*column 4.* negative"),
        (edit("primary", (0, 0, 0, 0), np.nan), "primary: 1 .*NaN"),
        (edit("air", slice(None), 100.0), "exceed air"),
    ],
)
def test_faults_are_found_in_a_file_with_dead_pixels(copy, spoil, words):
    change(copy, edit("counts", (0, 1, 1, 1), np.nan))
    change(copy, spoil)
    with pytest.raises(ValueError, match=words):
        read_scan(copy)


def test_a_scan_with_dead_pixels_only_is_read(copy):
    change(copy, edit("counts", slice(None), np.nan))
    scan = read_scan(copy)
    assert missing_views(scan.at("counts")) == list(range(6))
    assert len(scan.air) == N_BINS
