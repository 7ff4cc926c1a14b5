"""Figures of a set of simulated scans."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_words
from pcctlearn.figures.style import DISPLAY_WINDOWS, new_figure


def primary_and_scatter(folder: Path) -> Figure:
    """Primary and scattered counts relative to air, and their ratio (SPR), in each bin.

    One or two views of the first scan.
    """
    names = ("primary", "scatter", "air", "edges_keV", "views")
    primary, scatter, air, edges, views = read_arrays(folder, *(f"first/{n}" for n in names))
    n_bins = len(air)
    rows = {
        "primary / air": (np.log10(np.maximum(primary / air[:, None], 1e-6)), "log₁₀"),
        "scatter / air": (scatter / air[:, None], ""),
        "scatter / primary": (np.log10(np.maximum(scatter / primary, 1e-6)), "log₁₀"),
    }
    figure = new_figure(3.0 * n_bins, 2.1 * len(rows) * len(views))
    axes = figure.subplots(len(rows) * len(views), n_bins, squeeze=False)
    for place, view in enumerate(views):
        for number, (title, (values, scale)) in enumerate(rows.items()):
            row, shown = axes[place * len(rows) + number], values[:, place]
            low, high = np.percentile(shown, [1, 99.5])
            for b, ax in enumerate(row):
                image = ax.imshow(shown[b], origin="lower", cmap="magma", vmin=low, vmax=high)
                ax.set_xticks([])
                ax.set_yticks([])
                if place == number == 0:
                    ax.set_title(f"{edges[b]:.3g} … {edges[b + 1]:.3g} keV")
            row[0].set_ylabel(f"view {view}\n{title}")
            figure.colorbar(image, ax=row, label=scale, shrink=0.8, pad=0.01)
    return figure


def cases(folder: Path) -> Figure:
    """Central slices of the objects at 60 keV, in HU: axial (top) and coronal (bottom)."""
    names = read_words(folder, "shown")
    figure = new_figure(1.0 + 1.7 * len(names), 4.4)
    axes = figure.subplots(2, len(names), squeeze=False)
    low, high = DISPLAY_WINDOWS["HU"]
    for name, column in zip(names, axes.T, strict=True):
        images = read_arrays(folder, f"axial_HU/{name}", f"coronal_HU/{name}")
        for ax, image in zip(column, images, strict=True):
            shown = ax.imshow(image, cmap="gray", vmin=low, vmax=high)
            ax.set_axis_off()
        column[0].set_title(name, fontsize=7)
    figure.colorbar(shown, ax=axes, label="HU", shrink=0.6, aspect=30, pad=0.01)
    return figure
