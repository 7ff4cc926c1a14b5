"""What a run leaves behind, written whole or not at all."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pcctlearn.files import written_whole
from pcctlearn.report import render_report

Figures = Mapping[str, Callable[[Path], Figure]]


@dataclass
class StudyResults:
    """Numbers for the table, arrays for the figures, and how the figures are drawn from them.

    ``numbers`` is flat: the name of a metric, with its unit, and a finite number. ``arrays`` may be
    nested one level with ``/`` in the name. ``captions`` say what each figure shows.
    """

    numbers: dict[str, float]
    arrays: dict[str, Tensor | np.ndarray]
    figures: Figures
    captions: dict[str, str] = field(default_factory=dict)
    summary: str = ""


def write_run(name: str, results: StudyResults, folder: Path, config: str, began: float) -> None:
    """Arrays, numbers, figures and ``report.html``, in a folder that is whole or has no numbers.

    ``config`` is what made the run; ``began`` is what ``time.perf_counter`` said then.
    """
    write_results(results, folder, config)
    try:
        draw_figures(results, folder)
        seconds = time.perf_counter() - began
        page = render_report(folder, name, results.summary, results.captions, config, seconds)
        with written_whole(folder / "report.html") as path:
            path.write_text(page)
    except BaseException:
        (folder / "results.json").unlink()  # where it stands, the run is whole
        raise


def write_results(results: StudyResults, folder: Path, config: str = "") -> None:
    """``arrays.h5``, with the ``config`` that made it, and ``results.json``.

    The numbers come last: where they stand, the run is whole.
    """
    bad = [name for name, value in results.numbers.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(f"these results are not finite: {', '.join(bad)}")
    with written_whole(folder / "arrays.h5") as path, h5py.File(path, "w") as file:
        file.attrs["config"] = config
        for name, values in results.arrays.items():
            array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
            file.create_dataset(name, data=array, compression="gzip" if array.ndim > 1 else None)
    with written_whole(folder / "results.json") as path:
        path.write_text(json.dumps(results.numbers, indent=2) + "\n")


def finished_with(folder: Path, config: str) -> bool:
    """Whether a run with this configuration came to its end here."""
    if not (folder / "results.json").is_file() or not (folder / "arrays.h5").is_file():
        return False
    with h5py.File(folder / "arrays.h5") as file:
        return bool(file.attrs.get("config", "") == config)


def draw_figures(results: StudyResults, folder: Path) -> None:
    """Every figure of the results, into the run's folder."""
    for name, draw in results.figures.items():
        with written_whole(folder / "figures" / f"{name}.png") as path:
            draw(folder).savefig(path)


def print_table(name: str, results: StudyResults, folder: Path, seconds: float) -> None:
    """The last lines on the terminal: results, and where the report is."""
    console = Console()
    table = Table(title=f"{name}, {seconds:.1f} s", title_justify="left")
    table.add_column("result")
    table.add_column("value", justify="right")
    for key, value in results.numbers.items():
        table.add_row(key, f"{value:.4g}")
    console.print(table)
    console.print(results.summary)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
