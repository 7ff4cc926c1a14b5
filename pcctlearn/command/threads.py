"""How many threads torch and numba use."""

import logging
import os

import numba
import torch

log = logging.getLogger(__name__)


def set_threads(n_threads: int | None) -> None:
    """So many threads for torch and numba, at most one for each core; ``None`` changes nothing."""
    if n_threads is None:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    used = min(n_threads, cores or 1)
    if used < n_threads:
        log.warning("n_threads=%d is more than the %d cores of this process: %d are used",
                    n_threads, used, used)  # fmt: skip
    torch.set_num_threads(used)
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(used, most))


def threads() -> dict[str, int]:
    """{library: threads in use}, for the record of a run."""
    return {"torch": torch.get_num_threads(), "numba": numba.get_num_threads()}
