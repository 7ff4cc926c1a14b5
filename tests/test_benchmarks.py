"""Benchmarks still run, at the smallest sizes; nothing here looks at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.montecarlo import detector_speed

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "words",
    [
        ["decomposition", "--rays", "200", "--repeats", "1", "--memory-rays", "0"],
        ["etb", "--pixels", "200", "--repeats", "1"],
        ["uncertainty", "--draws", "3", "--photons", "1e6", "--rays", "500"],
        ["projectors_cone", "--alone", "--size", "16", "--views", "8", "--repeats", "1"],
    ],
    ids=lambda words: words[0],
)
def test_benchmark_writes_finite_numbers(words, tmp_path):
    script, *options = words
    subprocess.run(
        [sys.executable, f"benchmarks/{script}.py", *options, "--json", tmp_path / "results.json"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results
    assert all(abs(value) < float("inf") for value in flat(results))


@pytest.mark.parametrize("detector", ["silicon", "cdte"])
def test_detector_of_the_monte_carlo_benchmark_is_simulated(detector):
    assert detector_speed(detector, 1, n_histories=2000) > 0


def flat(results):
    for value in results.values() if isinstance(results, dict) else results:
        if isinstance(value, dict | list):
            yield from flat(value)
        elif not isinstance(value, str):
            yield float(value)
