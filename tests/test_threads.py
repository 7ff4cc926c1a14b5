"""Threads are capped at the cores of the process, for torch and numba alike."""

import logging
import os
import subprocess
import sys

import numba
import pytest
import torch
from support.studies import REPOSITORY

from pcctlearn.threads import set_threads, threads

PARALLEL = """
import numba, torch
from pcctlearn.threads import set_threads, threads
@numba.njit(parallel=True)
def total(n):
    s = 0
    for i in numba.prange(n):
        s += i
    return s
set_threads(N)
total(9)
print(threads())
"""


@pytest.fixture(autouse=True)
def _as_before():
    before = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


def test_more_threads_than_cores_are_capped_with_a_sentence(monkeypatch, caplog):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    with caplog.at_level(logging.WARNING):
        set_threads(100_000)
    assert threads() == {"torch": 1, "numba": 1}
    assert "n_threads=100000 is more than there are cores: 1 are used" in caplog.text


def test_threads_are_those_asked_for():
    set_threads(1)
    assert threads() == {"torch": 1, "numba": 1}
    set_threads(None)
    assert threads() == {"torch": 1, "numba": 1}


@pytest.mark.parametrize(("n_threads", "used"), [(1, 1), (None, 1), (2, 2)])
def test_they_stay_after_numba_has_started_its_threads(n_threads, used):
    """numba sets the threads of OpenMP, which are those of torch, when it starts its own."""
    if used > len(os.sched_getaffinity(0)):
        pytest.skip("one core")
    variables = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(REPOSITORY)}
    script = PARALLEL.replace("N)", f"{n_threads})", 1)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"'torch': {used}" in done.stdout
