"""Figure that compares runs."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_errors
from pcctlearn.figures.style import COLORS, new_figure

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
