"""Figures of one scatter study: images, errors of the test scans, time of a training step."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_errors, read_numbers
from pcctlearn.figures.style import COLORS, DISPLAY_WINDOWS, new_figure
from pcctlearn.metrics.errors import CORRECTED, UNCORRECTED

_METHODS = {"uncorrected": "uncorrected", "corrected": "corrected", "reference": "scatter-free"}


def images(folder: Path) -> Figure:
    """Monoenergetic images of the first test scan: uncorrected, corrected and scatter-free.

    Below each: difference from the scatter-free image.
    """
    volumes = {
        title: read_arrays(folder, f"{method}/vmi_HU")[0] for method, title in _METHODS.items()
    }
    return compared(volumes, volumes["scatter-free"])


def compared(volumes: dict[str, np.ndarray], reference: np.ndarray) -> Figure:
    """A column for each volume: axial and coronal slices above their differences from a reference.

    Volumes are in HU.
    """
    figure = new_figure(2.1 * len(volumes) + 1.2, 9.2)
    axes = figure.subplots(4, len(volumes), squeeze=False)
    gray, (low, high) = DISPLAY_WINDOWS["HU"], DISPLAY_WINDOWS["error"]
    for column, (title, volume) in zip(axes.T, volumes.items(), strict=True):
        for place, cut in enumerate((_axial, _coronal)):
            image, difference = cut(volume), cut(volume - reference)
            top = column[2 * place].imshow(image, cmap="gray", vmin=gray[0], vmax=gray[1])
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
    """Errors of the test scans before and after correction; one line for each scan."""
    table = read_errors(folder)
    metrics = [metric for metric in table.of(CORRECTED) if not metric.noisy]
    figure = new_figure(2.1 * len(metrics), 3.0)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for ax, metric in zip(panels, metrics, strict=True):
        both = np.stack([table.values[metric, method] for method in (UNCORRECTED, CORRECTED)])
        ax.plot([0, 1], both, color=COLORS["reference"], marker="o")
        ax.set_xticks([0, 1], ["before", "after"])
        ax.set_xlim(-0.3, 1.3)
        ax.set_ylim(bottom=0)
        ax.set_title(metric.label, fontsize=8)
    return figure


def step(folder: Path) -> Figure:
    """Share of each stage in the time of a training step, forward and backward."""
    numbers = read_numbers(folder)
    shares = {
        name.removeprefix("step_share_"): 100 * value
        for name, value in numbers.items()
        if name.startswith("step_share_")
    }
    stages = [name.removesuffix("_forward") for name in shares if name.endswith("_forward")]
    figure = new_figure(6.4, 0.45 * len(stages) + 1.2)
    ax = figure.subplots()
    begin = np.zeros(len(stages))
    for direction, color in (("forward", COLORS["reference"]), ("backward", COLORS["plane"])):
        width = np.array([shares[f"{stage}_{direction}"] for stage in stages])
        ax.barh(stages, width, left=begin, color=color, label=direction)
        begin = begin + width
    ax.invert_yaxis()
    ax.set_xlabel(
        f"share of a step (%), {numbers['step_rays_per_second'] / 1000:.3g} thousand rays/s"
    )
    ax.legend(frameon=False)
    return figure


def _axial(volume: np.ndarray) -> np.ndarray:
    return volume[len(volume) // 2]


def _coronal(volume: np.ndarray) -> np.ndarray:
    return volume[::-1, volume.shape[1] // 2]
