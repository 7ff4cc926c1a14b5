"""Scatter corrections compared, as in the table of the article that they are from."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
from torch import Tensor

from pcctlearn.experiments.paired import LEAST_SCANS, p_value
from pcctlearn.experiments.results import StudyResults
from pcctlearn.figures.arrays import as_array, read_arrays

_SHOWN = ("vmi_HU", "axial_maps", "line_integrals")


def scatter_table(runs: Mapping[str, Sequence[Path]]) -> StudyResults:
    """Means over seeds, then mean and standard deviation over the test scans, of every error.

    Args:
        runs: {method: folders of its runs, one for each seed}, all judged on the same scans.

    ``<metric>.<method>`` and its ``.sd`` over the scans; ``<metric>_over_uncorrected.<method>`` and
    its ``.sd`` over the runs; ``<metric>.noise_alone``; and for each two methods
    ``<metric>_difference.<a> minus <b>``, the mean over the scans, with ``<metric>_p.<a> minus
    <b>`` of Wilcoxon's signed-rank test, two-sided over the scans, where there are six or more:
    fewer cannot tell.

    Raises:
        ValueError: runs that were judged on different scans.
    """
    table = {method: _errors(folders) for method, folders in runs.items()}
    uncorrected = _uncorrected(runs)
    numbers: dict[str, float] = {}
    arrays: dict[str, Tensor | np.ndarray] = {}
    for metric, before in uncorrected.items():
        numbers |= _spread(f"{metric}.uncorrected", before)
        arrays[f"errors/{metric}.uncorrected"] = before
        for method, errors in table.items():
            numbers |= _spread(f"{metric}.{method}", errors[metric].mean(0))
            arrays[f"errors/{metric}.{method}"] = errors[metric].mean(0)
        for method, errors in table.items():
            ratio = errors[metric].mean(1) / before.mean()
            numbers |= _spread(f"{metric}_over_uncorrected.{method}", ratio)
    first_run = next(iter(runs.values()))[0]
    for metric, alone in _table(first_run, "noise_alone").items():
        numbers |= _spread(f"{metric}.noise_alone", alone)
    for metric in (name for name in uncorrected if not name.startswith("noisy")):
        for a, b in combinations(table, 2):
            first, second = (table[method][metric].mean(0) for method in (a, b))
            numbers[f"{metric}_difference.{a} minus {b}"] = float((first - second).mean())
            if len(first) >= LEAST_SCANS:
                numbers[f"{metric}_p.{a} minus {b}"] = p_value(first, second)
    for method, folders in runs.items():
        arrays |= _shown(folders[0], {"corrected": method})
    arrays |= _shown(first_run, {n: n for n in ("uncorrected", "reference")})
    arrays |= {"methods": as_array(list(runs)), "materials": read_arrays(first_run, "materials")[0]}
    n_scans = len(next(iter(uncorrected.values())))
    n_seeds = ", ".join(f"{method} {len(folders)}" for method, folders in runs.items())
    return StudyResults(
        numbers=numbers,
        arrays=arrays,
        figures=[f"scatter_table.{name}" for name in ("images", "maps", "projections", "boxes")],
        summary=f"{n_scans} test scans; runs of each method: {n_seeds}. Mean ± standard deviation "
        "over the scans, of means over the runs; ratios to the uncorrected error over the runs.",
    )


def _errors(folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """{metric: (run, scan)} of the corrected counts."""
    found = [_table(folder, "corrected") for folder in folders]
    return {metric: np.stack([one[metric] for one in found]) for metric in found[0]}


def _uncorrected(runs: Mapping[str, Sequence[Path]]) -> dict[str, np.ndarray]:
    """{metric: (scan)}, which all runs must have alike."""
    tables = {folder: _table(folder, "uncorrected") for some in runs.values() for folder in some}
    first_folder, first = next(iter(tables.items()))
    for folder, table in tables.items():
        same = table.keys() == first.keys() and all(
            table[m].shape == first[m].shape and np.allclose(table[m], first[m], rtol=1e-2)
            for m in first
        )
        if not same:
            raise ValueError(
                f"{folder} and {first_folder} were not judged on the same scans: compare runs with "
                "the same datasets, tomography and study.split"
            )
    return first


def _table(folder: Path, method: str) -> dict[str, np.ndarray]:
    with h5py.File(folder / "arrays.h5") as file:
        return {
            name.removesuffix(f".{method}"): values[()]
            for name, values in file["errors"].items()
            if name.endswith(f".{method}")
        }


def _shown(folder: Path, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    with h5py.File(folder / "arrays.h5") as file:
        return {
            f"{new}/{what}": file[f"{old}/{what}"][()]
            for old, new in names.items()
            for what in _SHOWN
        }


def _spread(name: str, values: np.ndarray) -> dict[str, float]:
    """Mean and, of more than one, the standard deviation of the sample."""
    mean = {name: float(values.mean())}
    return mean if len(values) < 2 else {**mean, f"{name}.sd": float(values.std(ddof=1))}
