"""Figures of the scatter studies: images before and after, and errors of every test scan."""

from pathlib import Path

import h5py
import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays
from pcctlearn.figures.style import COLOURS, WINDOWS, new_figure

_METHODS = {"uncorrected": "uncorrected", "corrected": "corrected", "reference": "scatter-free"}


def images(folder: Path) -> Figure:
    """Axial and coronal slices of each method, and their difference from the scatter-free scan."""
    figure = new_figure(9.6, 8.4)
    axes = figure.subplots(4, 3, squeeze=False)
    (reference,) = read_arrays(folder, "reference/vmi_HU")
    grey, (low, high) = WINDOWS["HU"], WINDOWS["error"]
    for column, (method, title) in zip(axes.T, _METHODS.items(), strict=True):
        (volume,) = read_arrays(folder, f"{method}/vmi_HU")
        for place, cut in enumerate((_axial, _coronal)):
            image, difference = cut(volume), cut(volume - reference)
            top = column[2 * place].imshow(image, cmap="gray", vmin=grey[0], vmax=grey[1])
            below = column[2 * place + 1].imshow(difference, cmap="RdBu_r", vmin=low, vmax=high)
            for ax in column[2 * place : 2 * place + 2]:
                ax.set_axis_off()
        column[0].set_title(title)
    figure.colorbar(top, ax=axes, label="HU", shrink=0.5, aspect=30, pad=0.01)
    figure.colorbar(
        below, ax=axes, label="difference (HU)", shrink=0.4, aspect=40, location="bottom"
    )
    return figure


def errors(folder: Path) -> Figure:
    """Every error before and after, one line for each test scan."""
    with h5py.File(folder / "arrays.h5") as file:
        metrics = [name for name in file if "rmse" in name or "spr" in name]
        values = {name: [file[f"{name}/{m}"][()] for m in list(_METHODS)[:2]] for name in metrics}
    figure = new_figure(2.1 * len(metrics), 3.0)
    for ax, (name, (before, after)) in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], values.items(), strict=True
    ):
        ax.plot([0, 1], np.stack([before, after]), color=COLOURS["reference"], marker="o")
        ax.set_xticks([0, 1], ["before", "after"])
        ax.set_xlim(-0.3, 1.3)
        ax.set_ylim(bottom=0)
        ax.set_title(name.replace("_", " "), fontsize=8)
    return figure


def _axial(volume: np.ndarray) -> np.ndarray:
    return volume[len(volume) // 2]


def _coronal(volume: np.ndarray) -> np.ndarray:
    return volume[::-1, volume.shape[1] // 2]
