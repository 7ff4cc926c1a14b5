"""Figures that compare runs."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_errors, read_words
from pcctlearn.figures.style import COLORS, DISPLAY_WINDOWS, new_figure, show_image

_MOST_PANELS = 12


def numbers(folder: Path) -> Figure:
    """Results of all runs, by setting; one dot for each run."""
    table = read_errors(folder, "runs")
    metrics = table.metrics[:_MOST_PANELS]
    n_columns = min(4, len(metrics))
    n_rows = -(-len(metrics) // n_columns)
    figure = new_figure(2.6 * n_columns, 2.4 * n_rows)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for ax in axes[len(metrics) :]:
        ax.set_axis_off()
    for ax, metric in zip(axes, metrics, strict=False):
        shown = {m: v for (other, m), v in table.values.items() if other == metric}
        for place, values in enumerate(shown.values()):
            ax.plot(np.full(len(values), place), values, "o", color=COLORS["reference"])
        ax.set_xticks(range(len(shown)), list(shown), rotation=30, ha="right", fontsize=7)
        ax.margins(x=0.3)
        ax.set_title(metric.label, fontsize=8)
    return figure


def images(folder: Path) -> Figure:
    """A monoenergetic image of the first scan with each setting, and their differences, in HU.

    Differences are those from the image of the last setting.
    """
    names = read_words(folder, "shown")
    shown = read_arrays(folder, *(f"images/{name}" for name in names))
    panels = [(name, image, "HU") for name, image in zip(names, shown, strict=True)]
    last = names[-1]
    panels += [
        (f"{name} minus {last}", image - shown[-1], "error") for name, image, _ in panels[:-1]
    ]
    n_rows = 1 if len(names) == 2 else 2
    n_columns = -(-len(panels) // n_rows)
    figure = new_figure(3.4 * n_columns, 3.1 * n_rows)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, image, window) in zip(axes, panels, strict=False):
        show_image(ax, image, DISPLAY_WINDOWS[window], title, unit="HU")
    return figure
