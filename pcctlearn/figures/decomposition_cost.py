"""Figure of the time of decompositions and of the memory of their derivatives."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_words
from pcctlearn.figures.style import COLORS, new_figure

_INSIDE: dict[str, Any] = {"ha": "right", "va": "center", "color": "white", "fontsize": 7}


def cost_and_memory(folder: Path) -> Figure:
    """Seconds for the 188.7 million rays of an epoch (left), and peak memory (right).

    Diamonds: epochs of [1, Table III], with the training of its network and, on GPUs, two cards.
    Memory is that of 10 000 rays, forward and backward [1, Fig. 12].
    """
    figure = new_figure(10.4, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1.0])
    _times(left, folder)
    _memory(right, folder)
    return figure


def _times(ax: Axes, folder: Path) -> None:
    labels = read_words(folder, "cost/labels")
    seconds, article = read_arrays(folder, "cost/epoch_seconds", "cost/article_epoch_seconds")
    rows = np.arange(len(labels))
    bars = ("forward", -0.19, COLORS["reference"]), ("with gradient", 0.19, COLORS["plane"])
    for (label, shift, color), times in zip(bars, seconds.T, strict=True):
        ax.barh(rows + shift, times, 0.36, color=color, label=label)
        for row, time in zip(rows, times, strict=True):
            if np.isfinite(time):
                text = f"{time:,.0f}".replace(",", " ")
                ax.text(0.92 * time, row + shift, text, **_INSIDE)
    ax.plot(article, rows, "D", color=COLORS["before"], markersize=5, label="epoch in [1]")
    shown = np.concatenate([seconds.ravel(), article])
    ax.set(
        xscale="log",
        xlim=(np.nanmin(shown) / 5, np.nanmax(shown) * 4),
        xlabel="seconds for 188.7 million rays",
        yticks=rows,
        yticklabels=labels,
    )
    ax.invert_yaxis()
    ax.legend(frameon=False, fontsize=8, loc="lower right")


def _memory(ax: Axes, folder: Path) -> None:
    steps, unrolled, implicit, exact = read_arrays(
        folder,
        "memory/n_steps",
        *(f"memory/{name}_mb" for name in ("unrolled", "implicit", "exact")),
    )
    ax.plot(steps, unrolled, "o-", color=COLORS["before"], label="unrolled")
    ax.plot(steps, implicit, "s-", color=COLORS["reference"], label="implicit")
    ax.axhline(
        float(exact[0]),
        color=COLORS["after"],
        linestyle="--",
        label="compiled layer (its own steps)",
    )
    ax.set(
        yscale="log", xlabel="Newton steps", ylabel="peak memory (MB)", xticks=steps, xlim=(0, None)
    )
    ax.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.1))
