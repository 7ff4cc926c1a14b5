"""Results are written completely or not at all."""

import errno
import json

import pytest
import torch
from support.studies import finished

from pcctlearn.figures.arrays import read_arrays, read_numbers
from pcctlearn.runs.results import StudyResults, write_results


def small(value=1.0):
    return StudyResults({"error_keV": value}, {"edges/true_keV": torch.arange(3.0)})


def test_written_results_are_read_back_unchanged(tmp_path):
    results = finished("thresholds_slabs")
    write_results(results, tmp_path)
    assert (
        read_numbers(tmp_path)
        == results.numbers
        == json.loads((tmp_path / "results.json").read_text())
    )
    for name, array in results.arrays.items():
        torch.testing.assert_close(torch.as_tensor(read_arrays(tmp_path, name)[0]), array)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["arrays.h5", "results.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_rejected(tmp_path, value):
    with pytest.raises(FloatingPointError, match=r"not finite.*error_keV"):
        write_results(small(value), tmp_path)
    assert not list(tmp_path.iterdir())


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("writer", ["h5py.File", "pathlib.Path.write_text", "os.replace"])
def test_a_full_disk_leaves_no_partial_file(tmp_path, monkeypatch, writer):
    monkeypatch.setattr(writer, no_space)
    with pytest.raises(OSError, match="No space left"):
        write_results(small(), tmp_path)
    monkeypatch.undo()
    assert {file.name for file in tmp_path.iterdir()} <= {"arrays.h5"}


def test_a_folder_below_a_file_is_rejected(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="another folder"):
        write_results(small(), tmp_path / "file" / "run")
