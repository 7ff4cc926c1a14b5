"""Figures of the pile-up study."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names
from pcctlearn.figures.style import COLORS, new_figure, show_image

_STYLES: dict[str, dict[str, Any]] = {
    "no pile-up": {"color": COLORS["plane"], "linewidth": 3.5},
    "uncorrected": {"color": COLORS["before"]},
    "corrected": {"color": COLORS["after"]},
    "anchored": {"color": COLORS["after"], "linestyle": "--"},
}


def arcs(folder: Path) -> Figure:
    """Images above the low threshold at the highest current, and mean values of concentric arcs."""
    start = "images/"
    names = [n.removeprefix(start) for n in read_names(folder) if n.startswith(start)]
    most = max((name.split("/")[1] for name in names), key=float)
    shown = [label for label in _STYLES if f"{label}/{most}" in names]
    figure = new_figure(11.0, 5.4)
    grid = figure.add_gridspec(2, len(shown))
    (reference,) = read_arrays(folder, f"arcs/{shown[0]}/{most}")
    inner = reference[0, :15].mean()
    for column, label in enumerate(shown):
        (image,) = read_arrays(folder, f"images/{label}/{most}")
        axis = figure.add_subplot(grid[0, column])
        show_image(
            axis, 100 * (image[0] / inner - 1), (-10.0, 10.0), f"{label}, {most} mA", unit="%"
        )
    for row, axis in enumerate((figure.add_subplot(grid[1, :2]), figure.add_subplot(grid[1, 2:]))):
        for label in shown:
            (values,) = read_arrays(folder, f"arcs/{label}/{most}")
            relative = 100 * (values[row] / values[row, 13] - 1)
            axis.plot(np.arange(1, 20), relative[:19], label=label, **_STYLES[label])
        axis.set(xlabel="arc", ylabel="relative to arc 14 (%)", xticks=range(2, 20, 2))
        axis.set_title(("low threshold", "high threshold")[row], fontsize=9)
    axis.legend(frameon=False, fontsize=8)
    return figure


def curves(folder: Path) -> Figure:
    """Rates of a counter over the tube current, registered and corrected, for each threshold."""
    current, registered, corrected = read_arrays(
        folder, "series_mA", "registered_per_s", "corrected_per_s"
    )
    figure = new_figure(9.0, 3.4)
    for j, axis in enumerate(figure.subplots(1, registered.shape[1], squeeze=False)[0]):
        slope = corrected[0, j] / current[0]
        axis.plot(current, slope * current, color=COLORS["reference"], linewidth=0.8)
        axis.plot(current, registered[:, j], "o", color=COLORS["before"], label="registered")
        axis.plot(current, corrected[:, j], "o", color=COLORS["after"], label="corrected")
        axis.set(
            xlabel="tube current (mA)", ylabel="rate of a counter (1/s)",
            title=("low threshold", "high threshold")[min(j, 1)],
        )  # fmt: skip
    axis.legend(frameon=False, fontsize=8)
    return figure
