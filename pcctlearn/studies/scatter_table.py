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
from pcctlearn.studies.paired import LEAST_SCANS, holm, p_value

_SHOWN = ("vmi_HU", "axial_maps", "line_integrals")


def scatter_table(runs: Mapping[str, Sequence[Path]]) -> StudyResults:
    """The comparison of finished scatter studies, as ``compared_corrections`` describes it.

    Args:
        runs: {method: folders of its runs, one for each seed}, with the same test scans.

    Raises:
        ValueError: the runs have different test scans.
    """
    found = {method: [read_errors(folder) for folder in runs[method]] for method in runs}
    _require_same_scans(runs, found)
    arrays: dict[str, Tensor | np.ndarray] = {}
    for method, folders in runs.items():
        arrays |= _shown(folders[0], {"corrected": method})
    first_run = next(folders[0] for folders in runs.values())
    arrays |= _shown(first_run, {n: n for n in ("uncorrected", "reference")})
    arrays |= {"materials": read_arrays(first_run, "materials")[0]}
    return compared_corrections(found, arrays)


def compared_corrections(
    found: Mapping[str, Sequence[ErrorTable]],
    shown: Mapping[str, Tensor | np.ndarray],
    against: str | None = None,
    pictured: Sequence[str] | None = None,
) -> StudyResults:
    """Mean of every error over the seeds, then mean and standard deviation over the test scans.

    Numbers: ``<metric>.<method>`` and its ``.sd`` over the scans;
    ``<metric>_over_uncorrected.<method>`` and its ``.sd`` over the runs; ``<metric>.noise_alone``.
    For each pair of methods, ``<metric>_difference.<a> minus <b>`` is the mean over the scans,
    ``<metric>_p.<a> minus <b>`` the p-value of Wilcoxon's signed-rank test, two-sided over the
    scans, and ``<metric>_p_holm.<a> minus <b>`` the same corrected for the number of tests. Both
    are left out for fewer than six scans, where p cannot fall below 0.05.

    Args:
        found: {method: errors of its runs, one for each seed}, all of the same scans, whose
            uncorrected errors and noise alone are those of the first.
        shown: arrays of the first test scan for the figures, and the ``materials``.
        against: compare this method with all others; by default every pair.
        pictured: methods of ``shown``; by default all.
    """
    methods = list(found)
    first = found[methods[0]][0]
    table, ratios, differences, p_values = (ErrorTable() for _ in range(4))
    pairs = [(a, b) for a, b in combinations(methods, 2) if against in (None, a, b)]
    for metric, before in first.of(UNCORRECTED).items():
        table.values[metric, UNCORRECTED] = before
        for method, tables in found.items():
            errors = np.stack([one.values[metric, CORRECTED] for one in tables])  # (run, scan)
            table.values[metric, method] = errors.mean(0)
            ratios.values[metric, method] = errors.mean(1) / before.mean()
        for a, b in pairs if not metric.noisy else ():
            pair, (one, other) = f"{a} minus {b}", (table.values[metric, m] for m in (a, b))
            differences.values[metric, pair] = np.array([(one - other).mean()])
            if len(one) >= LEAST_SCANS:
                p_values.values[metric, pair] = np.array([p_value(one, other)])
    for metric, alone in first.of(NOISE_ALONE).items():
        table.values[metric, NOISE_ALONE] = alone
    corrected = ErrorTable()
    for key, p in zip(
        p_values.values, holm([p.item() for p in p_values.values.values()]), strict=True
    ):
        corrected.values[key] = np.array([p])
    numbers = (
        table.means()
        | ratios.means("_over_uncorrected")
        | differences.means("_difference")
        | p_values.means("_p")
        | corrected.means("_p_holm")
    )
    n_seeds = ", ".join(f"{method} {len(tables)}" for method, tables in found.items())
    n_scans = len(next(iter(first.of(UNCORRECTED).values())))
    return StudyResults(
        numbers=numbers,
        arrays={
            **table.to_arrays(),
            **shown,
            "methods": as_array(methods),
            "pictured": as_array(list(pictured or methods)),
        },
        figures=[f"scatter_table.{name}" for name in ("images", "maps", "projections", "boxes")],
        summary=f"{n_scans} test scans; runs of each method: {n_seeds}. Mean ± standard deviation "
        "over the scans, of means over the runs; for shares of the uncorrected error, over the "
        "runs.",
        tables=_tables(methods, table, ratios, differences, p_values, corrected),
        tabulated=numbers,
    )


def _require_same_scans(
    runs: Mapping[str, Sequence[Path]], found: Mapping[str, Sequence[ErrorTable]]
) -> None:
    """Raise ValueError if the uncorrected errors, and with them the scans, differ between runs."""
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


def _tables(
    methods: list[str],
    table: ErrorTable,
    ratios: ErrorTable,
    differences: ErrorTable,
    p_values: ErrorTable,
    corrected: ErrorTable,
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
            *(_p(t, metric, pair) for t in (p_values, corrected)),
        ]
        for (metric, pair), difference in differences.values.items()
    ]
    both = Rows(errors.title, errors.columns, [*errors.rows, *shares.rows])
    head = ["result", "methods", "difference", "p (Wilcoxon)", "p (Holm)"]
    return [both, *([Rows("mean difference over the scans", head, pairs)] if pairs else [])]


def _p(table: ErrorTable, metric: Metric, pair: str) -> str:
    p = table.values.get((metric, pair))
    return "" if p is None else f"{p.item():.2g}"


def _shown(folder: Path, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    with h5py.File(folder / "arrays.h5") as file:
        return {
            f"{new}/{what}": file[f"{old}/{what}"][()]
            for old, new in names.items()
            for what in _SHOWN
        }
