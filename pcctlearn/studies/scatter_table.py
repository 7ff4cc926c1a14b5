"""Comparison of scatter corrections over seeds and test scans, as in [1, Table II]."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
from torch import Tensor

from pcctlearn.figures.arrays import as_array, read_arrays, read_errors
from pcctlearn.metrics.errors import (
    CORRECTED,
    NOISE_ALONE,
    UNCORRECTED,
    ErrorTable,
    Metric,
    Rows,
    mean_and_sd,
)
from pcctlearn.runs.results import StudyResults
from pcctlearn.studies.paired import LEAST_SCANS, p_value

_SHOWN = ("vmi_HU", "axial_maps", "line_integrals")


def scatter_table(runs: Mapping[str, Sequence[Path]]) -> StudyResults:
    """Mean of every error over the seeds, then mean and standard deviation over the test scans.

    Numbers: ``<metric>.<method>`` and its ``.sd`` over the scans;
    ``<metric>_over_uncorrected.<method>`` and its ``.sd`` over the runs; ``<metric>.noise_alone``.
    For each pair of methods, ``<metric>_difference.<a> minus <b>`` is the mean over the scans, and
    ``<metric>_p.<a> minus <b>`` the p-value of Wilcoxon's signed-rank test, two-sided over the
    scans; it is left out for fewer than six scans, where it cannot fall below 0.05.

    Args:
        runs: {method: folders of its runs, one for each seed}, with the same test scans.

    Raises:
        ValueError: the runs have different test scans.
    """
    found = {method: [read_errors(folder) for folder in runs[method]] for method in runs}
    uncorrected = _uncorrected(runs, found)
    first_run, first_table = next((folders[0], found[m][0]) for m, folders in runs.items())
    table, ratios, differences, p_values = (ErrorTable() for _ in range(4))
    for metric, before in uncorrected.items():
        table.values[metric, UNCORRECTED] = before
        for method, tables in found.items():
            errors = np.stack([one.values[metric, CORRECTED] for one in tables])  # (run, scan)
            table.values[metric, method] = errors.mean(0)
            ratios.values[metric, method] = errors.mean(1) / before.mean()
    for metric, alone in first_table.of(NOISE_ALONE).items():
        table.values[metric, NOISE_ALONE] = alone
    for metric in (metric for metric in uncorrected if not metric.noisy):
        for a, b in combinations(runs, 2):
            pair, (first, second) = f"{a} minus {b}", (table.values[metric, m] for m in (a, b))
            differences.values[metric, pair] = np.array([(first - second).mean()])
            if len(first) >= LEAST_SCANS:
                p_values.values[metric, pair] = np.array([p_value(first, second)])
    numbers = (
        table.means()
        | ratios.means("_over_uncorrected")
        | differences.means("_difference")
        | p_values.means("_p")
    )
    arrays: dict[str, Tensor | np.ndarray] = {**table.to_arrays()}
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
        "over the scans, of means over the runs; for shares of the uncorrected error, over the "
        "runs.",
        tables=_tables(list(runs), table, ratios, differences, p_values),
        tabulated=numbers,
    )


def _uncorrected(
    runs: Mapping[str, Sequence[Path]], found: Mapping[str, Sequence[ErrorTable]]
) -> dict[Metric, np.ndarray]:
    """{metric: (scan)} of the uncorrected errors, which must be the same in all runs."""
    folders = [folder for of_method in runs.values() for folder in of_method]
    tables = [table.of(UNCORRECTED) for of_method in found.values() for table in of_method]
    first = tables[0]
    for folder, table in zip(folders, tables, strict=True):
        same = table.keys() == first.keys() and all(
            table[m].shape == first[m].shape and np.allclose(table[m], first[m], rtol=1e-2)
            for m in first
        )
        if not same:
            raise ValueError(
                f"{folder} and {folders[0]} have different test scans: compare runs with the same "
                "datasets, tomography and study.split"
            )
    return first


def _tables(
    methods: list[str],
    table: ErrorTable,
    ratios: ErrorTable,
    differences: ErrorTable,
    p_values: ErrorTable,
) -> list[Rows]:
    """Errors of all methods, and differences of each pair."""
    columns = [m for m in (UNCORRECTED, *methods, NOISE_ALONE) if m in table.methods]
    errors = table.side_by_side(columns, "mean ± standard deviation")
    shares = ratios.side_by_side(columns, "", suffix=", share left")
    pairs = [
        [
            metric.label,
            pair,
            mean_and_sd(difference),
            "" if (p := p_values.values.get((metric, pair))) is None else f"{p.item():.2g}",
        ]
        for (metric, pair), difference in differences.values.items()
    ]
    both = Rows(errors.title, errors.columns, [*errors.rows, *shares.rows])
    head = ["result", "methods", "difference", "p (Wilcoxon)"]
    return [both, *([Rows("mean difference over the scans", head, pairs)] if pairs else [])]


def _shown(folder: Path, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    with h5py.File(folder / "arrays.h5") as file:
        return {
            f"{new}/{what}": file[f"{old}/{what}"][()]
            for old, new in names.items()
            for what in _SHOWN
        }
