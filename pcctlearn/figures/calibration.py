"""Figures of the threshold studies."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_numbers
from pcctlearn.figures.style import COLORS, DISPLAY_WINDOWS, WORDS, new_figure, show_image

_MARGIN = 12  # voxels above and below the phantom
_TITLES = {"before": "nominal thresholds", "after": "calibrated thresholds"}


def calibration_curves(folder: Path) -> Figure:
    """Loss and threshold error at each step of the calibration."""
    names = ("loss", "threshold_error_max_keV", "threshold_error_rms_keV")
    loss, largest, rms = read_arrays(folder, *(f"history/{name}" for name in names))
    figure = new_figure(7.0, 2.8)
    left, right = figure.subplots(1, 2)
    left.semilogy(loss, "o-", color=COLORS["after"], markersize=3)
    left.set(xlabel="step", ylabel="loss")
    right.semilogy(largest, "o-", color=COLORS["before"], markersize=3, label="largest")
    right.semilogy(rms, "s-", color=COLORS["reference"], markersize=3, label="RMS")
    right.set(xlabel="step", ylabel="threshold error (keV)")
    right.legend(frameon=False)
    for ax in (left, right):
        ax.locator_params(axis="x", integer=True)
    return figure


def slab_decomposition(folder: Path) -> Figure:
    """Thicknesses of the slabs: true, and decomposed with nominal and calibrated thresholds."""
    true, before, after = read_arrays(folder, "slabs/true_cm", "slabs/before_cm", "slabs/after_cm")
    figure = new_figure(6.5, 4.2)
    ax = figure.subplots()
    marks: dict[str, Any] = {"markersize": 6, "linestyle": "none"}
    ax.plot(*true.T, "s", color=COLORS["reference"], fillstyle="none", label="true", **marks)
    ax.plot(*before.T, "x", color=COLORS["before"], label="nominal thresholds", **marks)
    ax.plot(
        *after.T,
        ".",
        color=COLORS["after"],
        label="calibrated thresholds",
        **marks | {"markersize": 4},
    )
    ax.set(xlabel="water (cm)", ylabel="calcium (cm)")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def phantom_images(folder: Path) -> Figure:
    """Density maps of the calibration phantom: known, and with nominal and calibrated thresholds.

    The known maps are reconstructed from its exact line integrals.
    """
    titles = {"reference": "known"} | _TITLES
    maps = read_arrays(folder, *(f"phantom/{name}" for name in titles))
    rows = _rows_of_the_phantom(maps[0][0])
    figure = new_figure(11.0, 3.6)
    axes = figure.subplots(2, 3)
    windows = [(0.5, 1.1), (-0.05, 0.7)]
    for column, (title, image) in enumerate(zip(titles.values(), maps, strict=True)):
        for row, material in enumerate(WORDS):
            label = f"{WORDS[material]}, {title}"
            show_image(axes[row, column], image[row][rows], windows[row], label)
    return figure


def scan_images(folder: Path) -> Figure:
    """Density maps and monoenergetic image of the patient, scanned by the biased detector.

    Top: decomposed with nominal thresholds. Bottom: with calibrated thresholds. Last column: error
    of the monoenergetic image relative to a reconstruction of the exact line integrals.
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
        for column, material in enumerate(WORDS):
            label = f"{WORDS[material]}, {_TITLES[when]}"
            show_image(axes[row, column], maps[column], DISPLAY_WINDOWS[material], label)
        show_image(
            axes[row, 2], image, DISPLAY_WINDOWS["HU"], f"{energy} keV (HU), {_TITLES[when]}"
        )
        error = f"error (HU), RMS in the body {rms[when]:.3g}"
        show_image(axes[row, 3], image - reference, DISPLAY_WINDOWS["error"], error, "RdBu_r")
    return figure


def threshold_errors(folder: Path) -> Figure:
    """Threshold errors of the detector columns: nominal and calibrated minus true thresholds.

    Gray: columns with too few rays through the phantom, which keep their nominal thresholds.
    """
    edges_keV = (f"edges/{name}_keV" for name in ("true", "nominal", "found"))
    true, nominal, found, observable = read_arrays(folder, *edges_keV, "columns/observable")
    figure = new_figure(9.0, 4.2)
    axes = figure.subplots(2, 1, sharex=True)
    columns = np.arange(len(true))
    for ax, edges, title in zip(axes, (nominal, found), _TITLES.values(), strict=True):
        learned = edges.shape[1] - 1
        for j in range(learned):
            ax.plot(columns, (edges - true)[:, j], linewidth=0.8, label=f"{nominal[0, j]:g} keV")
        low, high = ax.get_ylim()
        gray = {"color": COLORS["unobservable"], "linewidth": 0}
        ax.fill_between(columns, low, high, where=~observable, step="mid", **gray)
        ax.set(ylabel="error (keV)", ylim=(low, high), title=title)
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside upper center", frameon=False, ncols=4, fontsize=8)
    axes[1].set_xlabel("detector column")
    return figure


def _rows_of_the_phantom(water: np.ndarray) -> slice:
    """Rows of an image in g/cm³ that contain the phantom, with a margin."""
    rows = np.flatnonzero((water > 0.3).any(1))
    return slice(max(0, rows[0] - _MARGIN), rows[-1] + _MARGIN)
