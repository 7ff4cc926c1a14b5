"""The benchmark measures the memory of the decomposition only."""

import importlib.util
import resource
from pathlib import Path

import torch

BENCHMARK = Path(__file__).parents[2] / "benchmarks/decomposition.py"


def test_an_earlier_peak_of_the_process_is_excluded():
    spec = importlib.util.spec_from_file_location("benchmark_decomposition", BENCHMARK)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    torch.ones(2**26).sum()  # half a gigabyte, freed at once
    earlier_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    found = benchmark.memory_of_a_fresh_process(20_000)
    assert found["memory_rays"] == 20_000
    assert 0 < found["peak_growth_mb"] < found["peak_mb"] < earlier_mb
