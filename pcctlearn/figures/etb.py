"""Figures of ETB-Cal: pixels that were found, beside the true ones."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names, read_numbers
from pcctlearn.figures.style import COLORS, DISPLAY_WINDOWS, new_figure, show_image

_TRUE = "true_thresholds_keV"


def pixels(folder: Path) -> Figure:
    """Skew and threshold bias of every pixel, true and found from noisy counts, and their errors.

    The first skew material and the first calibration; the highest threshold.
    """
    material, name = _materials(folder)[0], _calibrations(folder)[0]
    true_cm, true_keV = read_arrays(folder, f"{material}/true_thickness_cm", f"{material}/{_TRUE}")
    found_cm, found_keV = read_arrays(
        folder,
        f"{material}/noisy_{name}_thickness_cm",
        f"{material}/noisy_{name}_thresholds_keV",
    )
    reference = np.median(found_keV[:, -1])
    columns = [
        (f"{material} (mm)", 10 * true_cm[:, 0], 10 * found_cm[:, 0]),
        ("threshold bias (keV)", true_keV[:, -1] - reference, found_keV[:, -1] - reference),
    ]
    figure = new_figure(10.0, 4.4)
    axes = figure.subplots(2, 2, sharex=True)
    for (label, true, found), (above, below) in zip(columns, axes.T, strict=True):
        above.plot(true, color=COLORS["reference"], linewidth=0.6, label="true")
        above.plot(found, ".", color=COLORS["before"], markersize=2, label=f"found, {name}")
        above.set(ylabel=label)
        below.plot(found - true, ".", color=COLORS["after"], markersize=2)
        below.set(ylabel=f"error of {label}", xlabel="pixel")
    axes[0, 0].legend(frameon=False, loc="upper right", fontsize=8)
    return figure


def threshold_errors(folder: Path) -> Figure:
    """Threshold errors of all pixels, for every skew material and calibration.

    Left: expected counts. Right: noisy counts. Boxes hold half of the pixels, whiskers all.
    """
    figure = new_figure(10.0, 3.4)
    for axis, start in zip(figure.subplots(1, 2), ("", "noisy_"), strict=True):
        errors, labels = [], []
        for material in _materials(folder):
            (true_keV,) = read_arrays(folder, f"{material}/{_TRUE}")
            for name in _calibrations(folder):
                (found,) = read_arrays(folder, f"{material}/{start}{name}_thresholds_keV")
                errors.append((found - true_keV)[:, 1:].ravel())
                labels.append(f"{material}, {name}")
        axis.boxplot(errors, orientation="horizontal", whis=(0, 100))
        axis.set_yticklabels(labels if not start else [])
        axis.set(xlabel="threshold error (keV)", title="with noise" if start else "without noise")
        axis.locator_params(axis="x", nbins=5)
        axis.axvline(0, color=COLORS["unobservable"], linewidth=0.8, zorder=0)
    return figure


def abdomen(folder: Path) -> Figure:
    """Images of counts above the lowest threshold, and their differences from a nominal detector.

    One column for each correction, from plates with noise; HU, with the RMS difference over the
    body, from the largest to the smallest.
    """
    return _abdomens(folder, "")


def abdomen_decomposed(folder: Path) -> Figure:
    """Monoenergetic images at the mean energy above the lowest threshold, from the decomposition.

    One column for each model of the pixels, from plates with noise, and below the differences from
    a nominal detector; HU, with the RMS difference over the body, from the largest to the smallest.
    """
    return _abdomens(folder, "exact_")


def _abdomens(folder: Path, start: str) -> Figure:
    names = [name.removeprefix("images/") for name in read_names(folder) if "images/" in name]
    names = [name.removeprefix(start) for name in names if name.startswith(start)]
    if not start:
        names = [name for name in names if not name.startswith(("exact_", "materials_"))]
    noisy = [name for name in names if name.startswith("noisy_")]
    without = {"reference", *(name.removeprefix("noisy_") for name in noisy)}
    keV, reference = read_arrays(folder, "keV", f"images/{start}reference")
    numbers = read_numbers(folder)
    rms = {
        name: numbers[f"rms_HU_{keV[0]:g}keV.{start}{name}"]
        for name in names
        if name not in without
    }
    names = sorted(rms, key=lambda name: -rms[name])
    images = read_arrays(folder, *(f"images/{start}{name}" for name in names))
    figure = new_figure(2.6 * len(names), 4.8)
    axes = figure.subplots(2, len(names), squeeze=False)
    for column, (name, image) in enumerate(zip(names, images, strict=True)):
        title = name.removeprefix("noisy_").replace("_", " ")
        show_image(axes[0, column], image[0], DISPLAY_WINDOWS["HU"], title, unit="HU")
        difference, words = image[0] - reference[0], f"RMS {rms[name]:.3g} HU"
        show_image(axes[1, column], difference, DISPLAY_WINDOWS["error"], words, "RdBu_r", "HU")
    return figure


def _materials(folder: Path) -> list[str]:
    return list(dict.fromkeys(name.split("/")[0] for name in read_names(folder) if _TRUE in name))


def _calibrations(folder: Path) -> list[str]:
    material, end = _materials(folder)[0], "_thresholds_keV"
    start = f"{material}/noisy_"
    names = [name for name in read_names(folder) if name.startswith(start) and name.endswith(end)]
    return [name.removeprefix(start).removesuffix(end) for name in names]
