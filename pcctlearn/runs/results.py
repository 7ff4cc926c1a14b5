"""Results of a run, written atomically: numbers, arrays, figures and report."""

import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rich.table import Table
from torch import Tensor

from pcctlearn.console import console, say
from pcctlearn.figures import draw, file_stem
from pcctlearn.figures.arrays import read_numbers
from pcctlearn.files.atomic import added_whole, written_whole
from pcctlearn.metrics.errors import Rows
from pcctlearn.reading.damaged import library_errors, readable
from pcctlearn.reading.yaml_text import read_yaml
from pcctlearn.runs.folder import MARKER
from pcctlearn.runs.report import page_of, render_report
from pcctlearn.threads import threads


@dataclass
class StudyResults:
    """Numbers for the table, arrays for the figures, and the names of the figures.

    ``numbers`` is flat: {name of a metric with its unit: finite number}. ``arrays`` may be nested
    one level with ``/`` in the name. ``figures`` are named as in ``pcctlearn.figures``. ``failure``
    is an error to raise after the results are written, for instance about unusable inputs.
    ``tables`` show the numbers named in ``tabulated``; all other numbers are listed.
    """

    numbers: dict[str, float]
    arrays: dict[str, Tensor | np.ndarray]
    figures: Sequence[str] = ()
    summary: str = ""
    failure: str = ""
    tables: Sequence[Rows] = ()
    tabulated: Collection[str] = ()

    @property
    def listed(self) -> dict[str, float]:
        """Numbers that are in no table."""
        return {k: v for k, v in self.numbers.items() if k not in self.tabulated}


def write_run(
    name: str,
    results: StudyResults,
    folder: Path,
    config: str,
    began: float,
    overrides: Sequence[str] | None = None,
) -> None:
    """Write arrays, figures, ``report.html`` and, last, the numbers to a folder without outputs.

    ``config`` is the resolved YAML of the run, ``overrides`` are its command-line arguments, and
    ``began`` is the value of ``time.perf_counter`` at its start.
    """
    with added_whole(folder, last=MARKER) as part:
        tables = [*results.tables, *_list_of(results, "Results", ".6g")]
        page = page_of(name, results.summary, tables, time.perf_counter() - began)
        write_results(results, part, config, overrides, page)
        redraw(part)


def write_results(
    results: StudyResults,
    folder: Path,
    config: str = "",
    overrides: Sequence[str] | None = None,
    page: Mapping[str, Any] | None = None,
) -> None:
    """Write ``arrays.h5``, with the configuration in its attributes, and ``results.json``.

    The numbers are written last: if they exist, the run is complete.
    """
    bad = [name for name, value in results.numbers.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(f"these results are not finite: {', '.join(bad)}")
    with written_whole(folder / "arrays.h5") as path, h5py.File(path, "w") as file:
        file.attrs["config"] = config
        file.attrs["figures"] = json.dumps(list(results.figures))
        file.attrs.update({f"n_threads_{library}": n for library, n in threads().items()})
        if page is not None:
            file.attrs["page"] = json.dumps(page)
        if overrides is not None:
            file.attrs["overrides"] = json.dumps(list(overrides))
        for name, values in results.arrays.items():
            array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
            store(file, name, array)
    with written_whole(folder / MARKER) as path:
        path.write_text(json.dumps(results.numbers, indent=2) + "\n", encoding="utf-8")


def store(file: h5py.Group, name: str, array: np.ndarray, **options: Any) -> h5py.Dataset:
    """Write an array with a checksum, so that reading a damaged file raises an error."""
    if array.ndim == 0 or array.size == 0:  # HDF5 allows no filters here
        return file.create_dataset(name, data=array)
    filters = {"fletcher32": True, "compression": "gzip" if array.ndim > 1 else None}
    return file.create_dataset(name, data=array, **filters | options)


def recorded_overrides(folder: Path) -> list[str] | None:
    """Command-line arguments of the finished run in a folder; ``None`` if they are not recorded.

    Earlier versions recorded them in ``.hydra`` only. That file is used if it is older than the
    results; a newer one belongs to a later, unfinished run.
    """
    with h5py.File(folder / "arrays.h5") as file:
        words = file.attrs.get("overrides")
    if words is not None:
        return json.loads(words)
    started = folder / ".hydra" / "overrides.yaml"
    if not started.is_file() or started.stat().st_mtime_ns > (folder / MARKER).stat().st_mtime_ns:
        return None
    words = read_yaml(started, "the overrides of a run", "delete the folder, or run it again")
    return [str(word) for word in words or ()]


def finished_with(folder: Path, config: str) -> bool:
    """Whether the folder holds a finished run with this configuration."""
    if not (folder / MARKER).is_file() or not (folder / "arrays.h5").is_file():
        return False
    try:
        with h5py.File(folder / "arrays.h5") as file:
            return bool(file.attrs.get("config", "") == config)
    except library_errors():  # files damaged after the run
        return False


def redraw(folder: Path) -> list[str]:
    """Redraw the figures of a finished run and rewrite its report; return the figures' names.

    Raises:
        ValueError: the folder holds no finished run, or one that does not name its figures.
    """
    read_numbers(folder)
    path = folder / "arrays.h5"
    with readable(path, "the arrays of a finished run", "run it again"), h5py.File(path) as file:
        figures, page = file.attrs.get("figures"), file.attrs.get("page")
        config = str(file.attrs.get("config", ""))
    if figures is None:
        raise ValueError(
            f"{path} does not name its figures, since an earlier version wrote it: run it again"
        )
    names = json.loads(figures)
    for name in names:
        with written_whole(folder / "figures" / f"{file_stem(name)}.png") as path:
            draw(name, folder).savefig(path, format="png")
    if page is not None:
        with written_whole(folder / "report.html") as path:
            html = render_report(folder, json.loads(page), names, config)
            path.write_text(html, encoding="utf-8")
    return names


def print_table(name: str, results: StudyResults, folder: Path, seconds: float) -> None:
    """Print the results and the path of the report."""
    title = f"{name}, {seconds:.1f} s"
    for columns in (*results.tables, *_list_of(results, title, ".4g")):
        table = Table(title=columns.title, title_justify="left")
        for number, column in enumerate(columns.columns):
            justify: Any = "right" if number else "left"
            table.add_column(column, justify=justify, overflow="fold", no_wrap=not number)
        for row in columns.rows:
            table.add_row(*row)
        console().print(table)
    console().print(results.summary)
    say(f"report: {folder / 'report.html'}")


def _list_of(results: StudyResults, title: str, digits: str) -> list[Rows]:
    """A table of the numbers that are in no other table, if there are any."""
    rows = [(key, f"{value:{digits}}") for key, value in results.listed.items()]
    return [Rows(title, ("result", "value"), rows)] if rows else []
