"""Figures of the threshold studies."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_numbers
from pcctlearn.figures.style import COLOURS, WINDOWS, WORDS, new_figure, show_image


def calibration_curves(folder: Path) -> Figure:
    """Loss and threshold error after each step of the optimiser."""
    names = ("loss", "threshold_error_max_keV", "threshold_error_rms_keV")
    loss, largest, rms = read_arrays(folder, *(f"history/{name}" for name in names))
    figure = new_figure(7.0, 2.8)
    left, right = figure.subplots(1, 2)
    left.semilogy(loss, "o-", color=COLOURS["after"], markersize=3)
    left.set(xlabel="step", ylabel="loss")
    right.semilogy(largest, "o-", color=COLOURS["before"], markersize=3, label="largest")
    right.semilogy(rms, "s-", color=COLOURS["reference"], markersize=3, label="RMS")
    right.set(xlabel="step", ylabel="threshold error (keV)")
    right.legend(frameon=False)
    return figure


def slab_decomposition(folder: Path) -> Figure:
    """Slabs decomposed with nominal and with calibrated thresholds, beside the true ones."""
    true, before, after = read_arrays(folder, "slabs/true_cm", "slabs/before_cm", "slabs/after_cm")
    figure = new_figure(6.5, 4.2)
    ax = figure.subplots()
    marks: dict[str, Any] = {"markersize": 6, "linestyle": "none"}
    ax.plot(*true.T, "s", color=COLOURS["reference"], fillstyle="none", label="true", **marks)
    ax.plot(*before.T, "x", color=COLOURS["before"], label="nominal thresholds", **marks)
    ax.plot(
        *after.T, ".", color=COLOURS["after"], label="calibrated", linestyle="none", markersize=4
    )
    ax.set(xlabel="water (cm)", ylabel="calcium (cm)")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def phantom_images(folder: Path) -> Figure:
    """The calibration phantom: known, with nominal thresholds, with calibrated ones."""
    titles = {"reference": "known", "before": "nominal thresholds", "after": "calibrated"}
    maps = read_arrays(folder, *(f"phantom/{name}" for name in titles))
    rows = _rows_with_something(maps[0][0])
    figure = new_figure(11.0, 4.4)
    axes = figure.subplots(2, 3)
    windows = [(0.5, 1.1), (-0.05, 0.7)]
    for column, (title, image) in enumerate(zip(titles.values(), maps, strict=True)):
        for row, material in enumerate(WORDS):
            label = f"{WORDS[material]}, {title}"
            show_image(axes[row, column], image[row][rows], windows[row], label)
    return figure


def scan_images(folder: Path) -> Figure:
    """The patient, scanned by the biased detector: before and after calibration.

    Top: decomposed with the nominal thresholds. Bottom: with the calibrated ones. Last column:
    error of the monoenergetic image against an unbiased detector.
    """
    before, after = read_arrays(folder, "patient/before", "patient/after")
    reference, hu_before, hu_after = read_arrays(
        folder, *(f"patient/{name}_HU" for name in ("reference", "before", "after"))
    )
    numbers = read_numbers(folder)
    key = next(name for name in numbers if name.startswith("scan_vmi") and "before_HU" in name)
    energy = key.removeprefix("scan_vmi").split("_")[0]
    rms = {when: numbers[key.replace("before", when)] for when in ("before", "after")}
    figure = new_figure(14.0, 6.2)
    axes = figure.subplots(2, 4)
    for row, (when, maps, image) in enumerate(
        (("before", before, hu_before), ("after", after, hu_after))
    ):
        title = {"before": "nominal thresholds", "after": "calibrated"}[when]
        for column, material in enumerate(WORDS):
            label = f"{WORDS[material]}, {title}"
            show_image(axes[row, column], maps[column], WINDOWS[material], label)
        show_image(axes[row, 2], image, WINDOWS["HU"], f"{energy} keV (HU), {title}")
        error = f"error (HU), RMS in the body {rms[when]:.3g}"
        show_image(axes[row, 3], image - reference, WINDOWS["error"], error, "RdBu_r")
    return figure


def threshold_errors(folder: Path) -> Figure:
    """Threshold error of every detector column, before and after calibration.

    Grey: columns that the phantom leaves unobservable; they keep their thresholds.
    """
    edges_keV = (f"edges/{name}_keV" for name in ("true", "nominal", "found"))
    true, nominal, found, seen = read_arrays(folder, *edges_keV, "columns/observable")
    figure = new_figure(9.0, 4.2)
    axes = figure.subplots(2, 1, sharex=True)
    columns = np.arange(len(true))
    for ax, edges, title in zip(axes, (nominal, found), ("nominal", "calibrated"), strict=True):
        learned = edges.shape[1] - 1
        for j in range(learned):
            ax.plot(columns, (edges - true)[:, j], linewidth=0.8, label=f"{nominal[0, j]:g} keV")
        low, high = ax.get_ylim()
        ax.fill_between(
            columns, low, high, where=~seen, step="mid", color=COLOURS["unobservable"], linewidth=0
        )
        ax.set(ylabel="error (keV)", ylim=(low, high), title=f"{title} thresholds")
    axes[0].legend(frameon=False, ncols=4, fontsize=8)
    axes[1].set_xlabel("detector column")
    return figure


def _rows_with_something(image: np.ndarray, margin: int = 12) -> slice:
    rows = np.flatnonzero((image > 0.3).any(1))
    return slice(max(0, rows[0] - margin), rows[-1] + margin)
