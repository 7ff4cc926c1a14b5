"""Figures of a calibration from plates."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays
from pcctlearn.figures.style import COLORS, new_figure

_FEWEST_ROWS = 4  # of a detector that is drawn as a map
_RANGE = (1.0, 99.0)  # percentiles that the colors of a map span


def pixels(folder: Path) -> Figure:
    """Gain, skew of the first material, and bias of each threshold that is not nominal.

    Left: every calibrated pixel; where the detector is one row, with bars of one standard error.
    Right: how many pixels have each value, out of those calibrated.
    """
    gain, skew, skew_sd, bias, bias_sd, keV, good = read_arrays(
        folder,
        *("gain", "skew_mm", "skew_sd_mm", "bias_keV", "bias_sd_keV", "nominal_keV", "calibrated"),
    )
    rows = [("gain", gain, None), ("skew (mm)", skew, skew_sd)]
    rows += [
        (f"bias at {keV[j]:g} keV (keV)", bias[..., j], bias_sd[..., j])
        for j in range(len(keV))
        if j > 0 or bias[..., 0].any()
    ]
    figure = new_figure(10.0, 1.9 * len(rows))
    axes = figure.subplots(len(rows), 2, squeeze=False, width_ratios=[3, 1])
    for (label, values, sd), (left, right) in zip(rows, axes, strict=True):
        _draw_pixels(left, np.where(good, values, np.nan), sd, label)
        right.hist(values[good], bins=40, color=COLORS["reference"])
        right.set(xlabel=label, ylabel="pixels")
    return figure


def residuals(folder: Path) -> Figure:
    """Standard deviation over the pixels of ln(measured / predicted counts) behind each plate.

    Predictions for nominal pixels, scaled to their own counts behind the thinnest plates, and for
    the calibrated ones, and the noise of the counts.
    """
    return _residuals(folder, 10.0, "thickness of all plates (mm)")


def phantom_residuals(folder: Path) -> Figure:
    """Root mean squares of ln(measured / predicted counts) over rays of similar area density.

    Predictions for nominal pixels, scaled to their own air, and for the calibrated ones, and the
    noise of the counts.
    """
    return _residuals(folder, 1.0, "area density of the phantom (g/cm²)")


def _residuals(folder: Path, scale: float, label_of_depths: str) -> Figure:
    keV, depths, before, after, noise = read_arrays(
        folder,
        *("nominal_keV", "depths", "residuals/nominal"),
        *("residuals/calibrated", "residuals/noise"),
    )
    figure = new_figure(3.2 * len(keV), 3.2)
    axes = figure.subplots(1, len(keV), sharey=True, squeeze=False)[0]
    order = np.argsort(depths)
    for j, axis in enumerate(axes):
        for values, color, label in (
            (np.where(before > 0, before, np.nan), "before", "nominal pixels, flat field"),
            (after, "after", "calibrated"),
            (noise, "reference", "noise"),
        ):
            line = "--" if label == "noise" else "o-"
            axis.semilogy(
                scale * depths[order], values[order, j], line, color=COLORS[color], label=label
            )
        axis.set(xlabel=label_of_depths, title=f"above {keV[j]:g} keV")
    axes[0].set_ylabel("standard deviation of ln counts")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def slab(folder: Path) -> Figure:
    """Errors of the projections of a water slab in every calibrated pixel.

    Corrected as if all pixels were nominal, and by a calibration of a second, simulated measurement
    of the pixels that were found. In an image, such differences are rings.
    """
    keV, before, after = read_arrays(folder, "nominal_keV", "slab/before", "slab/after")
    figure = new_figure(10.0, 1.7 * len(keV) + 0.4)
    axes = figure.subplots(len(keV), 1, sharex=True, squeeze=False)[:, 0]
    for j, axis in enumerate(axes):
        axis.plot(before[:, j], ".", color=COLORS["before"], markersize=2, label="nominal pixels")
        axis.plot(after[:, j], ".", color=COLORS["after"], markersize=2, label="calibrated")
        axis.set(ylabel=f"error above {keV[j]:g} keV")
    axes[-1].set_xlabel("pixel")
    axes[0].legend(frameon=False, fontsize=8, loc="upper right", markerscale=4)
    return figure


def transmission(folder: Path) -> Figure:
    """Counts of the median pixel above each threshold, relative to the thinnest plates."""
    keV, plates_cm, counts = read_arrays(folder, "nominal_keV", "plates_cm", "median_counts")
    figure = new_figure(5.0, 3.4)
    axis = figure.subplots()
    order = np.argsort(plates_cm)
    for j, threshold in enumerate(keV):
        share = counts[order, j] / counts[order[0], j]
        axis.semilogy(10 * plates_cm[order], share, "o-", label=f"above {threshold:g} keV")
    axis.set(xlabel="thickness of all plates (mm)", ylabel="counts / counts of thinnest plates")
    axis.legend(frameon=False)
    return figure


def _draw_pixels(axis: Axes, values: np.ndarray, sd: np.ndarray | None, label: str) -> None:
    """A map of a panel, or the pixels of a few rows one after the other."""
    if values.ndim == 2 and len(values) >= _FEWEST_ROWS:
        low, high = np.nanpercentile(values, _RANGE)
        shown = axis.imshow(values, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        axis.set(xlabel="column", ylabel="row")
        axis.figure.colorbar(shown, ax=axis, label=label)
        return
    axis.plot(values.ravel(), ".", color=COLORS["after"], markersize=2)
    if sd is not None:
        low, high = (values - sd).ravel(), (values + sd).ravel()
        axis.vlines(np.arange(values.size), low, high, color=COLORS["plane"], linewidth=0.4)
    axis.set(xlabel="pixel", ylabel=label)
