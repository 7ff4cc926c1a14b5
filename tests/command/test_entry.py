"""Freed memory stays with the process, so that the next large tensor needs no new pages."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from pcctlearn.command.entry import keep_freed_memory
kept = sys.argv[1] == "kept" and keep_freed_memory()
def faults():
    for _ in range(20):
        [np.ones(2_500_000) for _ in range(5)]  # 20 MB each, freed together
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(int(kept), faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is not here")
def test_large_arrays_need_no_new_pages():
    told = {}
    for way in ("kept", "given back"):
        command = [sys.executable, "-c", FAULTS, way]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        told[way] = [int(word) for word in done.stdout.split()]
    assert told["kept"][0] == 1
    assert told["kept"][1] < 0.1 * told["given back"][1]
