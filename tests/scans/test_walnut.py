"""The walnut reader: two bins from two thresholds, and the mask of usable pixels."""

import numpy as np
import pytest
import torch

from pcctlearn.scans.walnut import read_walnut

N_ROWS, N_COLUMNS = 256, 7
SIZE = {"n_rows": N_ROWS, "n_columns": N_COLUMNS}


def images(name, n_views=3):
    """(view, row, column): the low bin holds 1000 + column, the high bin 500 + row."""
    view, row, column = np.ogrid[:n_views, :N_ROWS, :N_COLUMNS]
    high = 500 + row + 0 * column + view
    return (high if name == "High" else high + 1000 + column).astype("<u2")


@pytest.fixture
def walnut(tmp_path):
    for name in ("Total", "High"):
        (tmp_path / "couch" / name).mkdir(parents=True)
        for view, image in enumerate(images(name)):
            image.tofile(tmp_path / "couch" / name / f"proj_{view:04d}.raw")
    tables = tmp_path / "tables"
    tables.mkdir()
    for name, level in (("low", 2000), ("high", 1500)):
        np.full((2, N_ROWS, N_COLUMNS), level, "<u2").tofile(tables / f"air_table_{name}.raw")
    return tmp_path / "couch", tables


def test_bins_are_differences_of_thresholds(walnut):
    scan = read_walnut(*walnut, **SIZE)
    assert scan.counts.shape == (2, 3, N_ROWS, N_COLUMNS)
    assert scan.counts.dtype == torch.float32
    np.testing.assert_array_equal(scan.counts[0, 1, 9], 1000 + np.arange(N_COLUMNS))
    assert (scan.counts[1, 2, :, 3] == 502 + torch.arange(N_ROWS)).all()
    assert (scan.counts.sum(0).numpy() == images("Total")).all()
    assert scan.air[:, 0, 0].tolist() == [2000, 1500]


def test_views_can_be_thinned(walnut):
    scan = read_walnut(*walnut, every=2, **SIZE)
    assert scan.counts[1, :, 0, 0].tolist() == [500, 502]
    with pytest.raises(ValueError, match=r"every.* 0"):
        read_walnut(*walnut, every=0, **SIZE)


def test_broken_pixels_are_not_usable(walnut):
    couch, tables = walnut
    broken = images("Total")[1]
    broken[4, 5] = 4095
    broken.tofile(couch / "Total/proj_0001.raw")
    np.array([1, 2 * N_COLUMNS + 3], "<f4").tofile(tables / "badchannelIndexAll.data")  # from 1
    usable = read_walnut(couch, tables, **SIZE).usable
    expected = torch.ones(N_ROWS, N_COLUMNS, dtype=torch.bool)
    expected[251:254] = False
    expected[4, 5] = expected[0, 0] = expected[2, 2] = False
    assert (usable == expected).all()


def test_faults(walnut):
    couch, tables = walnut
    with pytest.raises(ValueError, match=r"proj_0000\.raw .*1792 .*505 .*2063"):
        read_walnut(couch, tables)
    n_pixels = N_ROWS * N_COLUMNS
    for indices in ([n_pixels + 1], [0], [-5], [1.5], [np.nan], [np.inf], [1] * (n_pixels + 1)):
        np.array(indices, "<f4").tofile(tables / "badchannelIndexAll.data")
        with pytest.raises(ValueError, match=r"badchannelIndexAll\.data.*again"):
            read_walnut(couch, tables, **SIZE)
    (tables / "air_table_low.raw").unlink()
    with pytest.raises(FileNotFoundError, match=r"air_table_low\.raw.*unpack"):
        read_walnut(couch, tables, **SIZE)
    (couch / "High/proj_0002.raw").unlink()
    with pytest.raises(ValueError, match=r"3 .*Total.* 2 .*High.*unpack"):
        read_walnut(couch, tables, **SIZE)
    file = couch / "Total/proj_0002.raw"
    file.rename(couch / "High/proj_0002.raw")
    (couch / "Total/proj_0001.raw").write_bytes(b"12345")
    (couch / "High/proj_0002.raw").unlink()
    with pytest.raises(ValueError, match=r"proj_0001\.raw .*2\.5 .*truncated"):
        read_walnut(couch, tables, **SIZE)
    with pytest.raises(FileNotFoundError, match=r"Total.*unpack"):
        read_walnut(tables, tables, **SIZE)
