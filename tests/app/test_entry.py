"""Every command keeps freed memory and prints warnings in one line."""

import platform
import subprocess
import sys
import warnings

import pytest

from pcctlearn.app.entry import run_command

FAULTS = """
import resource, sys
import numpy as np
from pcctlearn.app.entry import keep_freed_memory
kept = sys.argv[1] == "kept" and keep_freed_memory()
def faults():
    for _ in range(20):
        [np.ones(2_500_000) for _ in range(5)]  # 20 MB each, freed together
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(int(kept), faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's allocator")
def test_large_arrays_reuse_freed_pages():
    printed = {}
    for mode in ("kept", "returned"):
        command = [sys.executable, "-c", FAULTS, mode]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        printed[mode] = [int(word) for word in done.stdout.split()]
    assert printed["kept"][0] == 1
    assert printed["kept"][1] < 0.1 * printed["returned"][1]


def test_a_warning_is_one_line_and_printed_once(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def main():
        for words in ("truncated", "truncated", "two\nlines"):
            warnings.showwarning(UserWarning(words), UserWarning, "beam.py", 12)
        warnings.showwarning(DeprecationWarning("old"), DeprecationWarning, "torch.py", 3)

    run_command(main, "train.py")
    lines = ["truncated", "two lines"]
    assert capsys.readouterr().err.splitlines() == [f"pcctlearn: warning: {x}" for x in lines]
