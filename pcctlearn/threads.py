"""The number of threads that torch and numba use."""

import logging
import os

import numba
import torch

log = logging.getLogger(__name__)


def set_threads(n_threads: int | None) -> None:
    """Set the threads of torch and numba, at most one per core; ``None`` changes nothing."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    of_torch, of_numba = torch.get_num_threads(), numba.get_num_threads()
    if n_threads is not None:
        used = min(n_threads, cores or 1)
        if used < n_threads:
            log.warning(f"n_threads={n_threads} exceeds the number of cores: {used} are used")
        most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        of_torch, of_numba = used, min(used, most)
    numba.set_num_threads(of_numba)
    torch.set_num_threads(of_torch)  # last: numba sets the threads of OpenMP when it starts its own


def threads() -> dict[str, int]:
    """{library: threads in use}, recorded with the results of a run."""
    return {"torch": torch.get_num_threads(), "numba": numba.get_num_threads()}
