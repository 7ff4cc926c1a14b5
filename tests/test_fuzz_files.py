"""A short run of benchmarks/fuzz_files.py, and checks that it detects faults."""

import os
import signal
import warnings

import numpy as np
import pytest

from benchmarks import fuzz_files, fuzz_sources
from benchmarks.fuzz_files import FAULTS, Reader, make_mutant, outcome_of
from benchmarks.fuzz_sources import SOURCES, Source, write_payload


@pytest.fixture
def sound(tmp_path):
    """A function that writes an undamaged file of a kind."""

    def write(kind):
        (tmp_path / "sound").mkdir(exist_ok=True)
        SOURCES[kind].write(tmp_path / "sound" / kind)
        return tmp_path / "sound" / kind

    return write


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused(tmp_path, sound, annotations_off, kind):
    file = sound(kind)
    assert outcome_of(kind, file) == ("accepted", "")
    found, outcomes = [], set()
    for number in range(15):
        mutant, marker = tmp_path / f"{number}" / kind, tmp_path / f"code{number}"
        make_mutant(file, mutant, marker, np.random.default_rng([7, number]))
        outcome, words = outcome_of(kind, mutant)
        outcomes.add(outcome)
        found += [f"{number}: {outcome}: {words}"] if outcome in FAULTS else []
        assert not marker.exists()
    assert not found
    assert "refused" in outcomes


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda path: 1 / 0, ("traceback", "improper message: ZeroDivisionError")),
        (lambda path: {}["x"], ("traceback", "KeyError")),
        (lambda path: int("x"), ("traceback", "improper message: ValueError")),
        (lambda path: [np.nan * fuzz_sources.ENERGIES], ("not finite", "NaN")),
        (lambda path: fuzz_sources.ENERGIES, ("accepted", "")),
    ],
)
def test_faults_of_a_reader_are_detected(tmp_path, monkeypatch, read, expected):
    monkeypatch.setitem(SOURCES, "a", Source("a", lambda path: None, read))
    outcome, words = outcome_of("a", tmp_path / "a")
    assert outcome == expected[0]
    assert words.startswith(expected[1])


def test_execution_of_code_is_detected(tmp_path):
    """A reader that unpickles the payload writes the marker."""
    path, marker = tmp_path / "a.bin", tmp_path / "marker"
    write_payload(path, marker, np.random.default_rng(0))
    np.load(path, allow_pickle=True)
    assert marker.exists()


def test_most_mutants_of_every_kind_differ_from_the_file(tmp_path, sound):
    for kind in SOURCES:
        file = sound(kind)
        if file.is_dir():
            continue
        same = 0
        for number in range(8):
            mutant = tmp_path / f"{number}{kind}" / kind
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                make_mutant(file, mutant, tmp_path / "code", np.random.default_rng([3, number]))
            same += mutant.read_bytes() == file.read_bytes()
        assert same <= 2, kind


def test_a_reader_that_dies_or_hangs_is_reported_and_started_again(tmp_path, sound, monkeypatch):
    file = sound("overrides.yaml")
    with Reader("overrides.yaml") as reader:
        assert reader.outcome(file) == ("accepted", "")
        os.kill(reader.process.pid, signal.SIGSTOP)
        monkeypatch.setattr(fuzz_files, "LIMIT_s", 0.2)
        assert reader.outcome(file)[0] == "hang"
        monkeypatch.setattr(fuzz_files, "LIMIT_s", 60.0)
        assert reader.outcome(file) == ("accepted", "")
        os.kill(reader.process.pid, signal.SIGKILL)
        reader.process.wait()
        assert reader.outcome(file) == ("signal", "exit status -9")
