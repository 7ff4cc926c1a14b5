"""Threads are capped at the cores of the process, for torch and numba alike."""

import logging
import os

import numba
import pytest
import torch

from pcctlearn.command.threads import set_threads, threads


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
    assert "n_threads=100000 is more than the 1 cores" in caplog.text


def test_threads_are_those_asked_for():
    set_threads(1)
    assert threads() == {"torch": 1, "numba": 1}
    set_threads(None)
    assert threads() == {"torch": 1, "numba": 1}
