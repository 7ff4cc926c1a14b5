"""Figures of the calibration of a whole detector."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names
from pcctlearn.figures.style import new_figure

_SHOWN = ("nominal", "sequential", "joint", "without_dead_time", "without_scatter", "true")
_WIDEST_HU = 30.0


def images(folder: Path) -> Figure:
    """The abdomen corrected as each calibration says, minus the image of the true detector.

    For the fewest photons and the first draw; the scan of the abdomen has no noise. HU at the
    energy of the images; the scale of each image is its own.
    """
    names = [name for name in read_names(folder) if name.startswith("images/")]
    levels = dict.fromkeys(n.split("/")[1].split("_")[0] for n in names if "reference" not in n)
    level = min(levels, key=float)
    (reference,) = read_arrays(folder, "images/reference")
    shown = [name for name in _SHOWN if f"images/{level}_{name}" in names]
    figure = new_figure(9.6, 6.6)
    axes = figure.subplots(2, (len(shown) + 1) // 2, squeeze=False).flatten()
    body = reference > -500
    for axis, name in zip(axes, shown, strict=False):
        (image,) = read_arrays(folder, f"images/{level}_{name}")
        difference = np.where(body, image - reference, np.nan)
        most = float(np.nanquantile(np.abs(difference), 0.98))
        most = min(_WIDEST_HU, max(0.5, most))
        picture = axis.imshow(difference, cmap="gray", vmin=-most, vmax=most)
        axis.set_title(f"{name.replace('_', ' ')}: ±{most:.2g} HU", fontsize=9)
        figure.colorbar(picture, ax=axis, shrink=0.7)
    for axis in axes:
        axis.set_axis_off()
    return figure


def pixels(folder: Path) -> Figure:
    """Errors of the thresholds of all pixels after the joint fit, with one standard deviation.

    For the most photons and the first draw. Uncalibrated pixels are left out.
    """
    keV, error, sd, good = read_arrays(
        folder, "keV", "threshold_error_keV", "threshold_sd_keV", "calibrated"
    )
    figure = new_figure(8.0, 5.6)
    axes = figure.subplots(len(keV), 1, sharex=True, sharey=True)
    column = np.arange(len(error))
    for j, (axis, edge) in enumerate(zip(axes, keV, strict=True)):
        axis.axhspan(-0.05, 0.05, color="0.9")
        axis.fill_between(
            column, np.where(good, -sd[:, j], np.nan), np.where(good, sd[:, j], np.nan),
            color="C0", alpha=0.3, linewidth=0,
        )  # fmt: skip
        axis.plot(column[good], error[good, j], ".", markersize=3, color="C3")
        axis.set_ylabel(f"{edge:g} keV")
    axes[0].set_title("error of the thresholds (keV)", fontsize=9)
    axes[-1].set_xlabel("pixel")
    return figure
