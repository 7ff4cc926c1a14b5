"""Figures of a set of simulated scans."""

from collections.abc import Sequence
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
    rows = []
    for place, view in enumerate(views):
        counts, scattered = primary[:, place], scatter[:, place]
        for title, values, scale in (
            ("primary / air", np.log10(np.maximum(counts / air, 1e-6)), "log₁₀"),
            ("scatter / air", scattered / air, ""),
            ("scatter / primary", np.log10(np.maximum(scattered / counts, 1e-6)), "log₁₀"),
        ):
            rows.append((f"view {view}\n{title}", values, scale))
    return _images_of_bins(rows, edges)


def primary_sinogram(folder: Path) -> Figure:
    """Primary counts of a row of pixels relative to air in each bin, against the view.

    The first scan, the row in the middle of the detector.
    """
    sinogram, edges = read_arrays(folder, "first/sinogram", "first/edges_keV")
    shown = np.log10(np.maximum(sinogram, 1e-6))
    figure = _images_of_bins([("primary / air\nview", shown, "log₁₀")], edges, aspect="auto")
    for ax in figure.axes[: len(sinogram)]:
        ax.set_xlabel("column")
    return figure


def cases(folder: Path) -> Figure:
    """Central slices of the objects at 60 keV, in HU: axial (top) and coronal (bottom).

    Objects of one slice have no coronal one.
    """
    names = read_words(folder, "shown")
    volumes = [read_arrays(folder, f"axial_HU/{n}", f"coronal_HU/{n}") for n in names]
    n_cuts = 2 if any(len(coronal) > 1 for _, coronal in volumes) else 1
    figure = new_figure(1.0 + 1.7 * len(names), 2.2 * n_cuts)
    axes = figure.subplots(n_cuts, len(names), squeeze=False)
    low, high = DISPLAY_WINDOWS["HU"]
    for name, images, column in zip(names, volumes, axes.T, strict=True):
        for ax, image in zip(column, images, strict=False):
            shown = ax.imshow(image, cmap="gray", vmin=low, vmax=high)
            ax.set_axis_off()
        column[0].set_title(name, fontsize=7)
    figure.colorbar(shown, ax=axes, label="HU", shrink=0.6, aspect=30, pad=0.01)
    return figure


def _images_of_bins(
    rows: Sequence[tuple[str, np.ndarray, str]], edges_keV: np.ndarray, aspect: str = "equal"
) -> Figure:
    """Images (bin, y, x) in rows with a title and a scale each, the bins side by side."""
    n_bins = len(edges_keV) - 1
    figure = new_figure(3.0 * n_bins, 2.1 * len(rows))
    axes = figure.subplots(len(rows), n_bins, squeeze=False)
    for row, (title, images, scale) in zip(axes, rows, strict=True):
        low, high = np.percentile(images, [1, 99.5])
        for ax, panel in zip(row, images, strict=True):
            image = ax.imshow(
                panel, origin="lower", cmap="magma", vmin=low, vmax=high, aspect=aspect
            )
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(title)
        figure.colorbar(image, ax=row, label=scale, shrink=0.8, pad=0.01)
    for b, ax in enumerate(axes[0]):
        ax.set_title(f"{edges_keV[b]:.3g} … {edges_keV[b + 1]:.3g} keV")
    return figure
