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


def test_threads_are_capped_at_the_cores_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    with caplog.at_level(logging.WARNING):
        set_threads(100_000)
    assert threads() == {"torch": 1, "numba": 1}
    assert "n_threads=100000" in caplog.text


def test_the_number_of_threads_is_set():
    set_threads(1)
    assert threads() == {"torch": 1, "numba": 1}
    set_threads(None)
    assert threads() == {"torch": 1, "numba": 1}


@pytest.mark.parametrize(("n_threads", "used"), [(1, 1), (None, 1), (2, 2)])
def test_threads_of_torch_do_not_change_when_numba_starts_its_own(n_threads, used):
    """Numba then sets the number of OpenMP threads, which torch uses."""
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
