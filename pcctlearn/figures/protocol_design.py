"""Figures of designed protocols: noise, spectra with thresholds, and slices."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_numbers, read_words
from pcctlearn.figures.style import COLORS, new_figure, show_image

_LABELS = {
    "default": "default",
    "equal_widths": "equal widths",
    "equal_counts": "equal counts",
    "kV_alone": "kV alone",
    "thresholds": "thresholds",
    "thresholds_and_kV": "thresholds\nand kV",
    "thresholds_kV_and_filter": "thresholds,\nkV, filter",
}
_MEASURES = {
    "relative_bound": ("bound of a ray", COLORS["unobservable"]),
    "relative_ray_sd": ("rays, drawn", COLORS["plane"]),
    "relative_voxel_sd": ("slices, drawn", COLORS["reference"]),
}
_SPECTRA = {
    "default": COLORS["before"],
    "thresholds": COLORS["plane"],
    "thresholds_kV_and_filter": COLORS["after"],
}


def noise_and_spectra(folder: Path) -> Figure:
    """Noise of the contrast agent at equal dose over that of the default protocol, and spectra.

    Left: Cramér–Rao bound of the rays through the insert, standard deviation of noise drawn for
    these rays, and of a voxel of the insert in reconstructed slices. Right: counts per keV behind
    the head, with the thresholds of three protocols; dashed: K edge.
    """
    numbers, rows = read_numbers(folder), read_words(folder, "rows")
    figure = new_figure(11.0, 4.0)
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.3, 1.0])
    noise, spectra = halves
    left, right = noise.subplots(), spectra.subplots(len(_SPECTRA), 1, sharex=True)
    for number, (key, (label, color)) in enumerate(_MEASURES.items()):
        at = [i for i, row in enumerate(rows) if f"{key}.{row}" in numbers]
        heights = [numbers[f"{key}.{rows[i]}"] for i in at]
        x = np.array(at) + 0.27 * (number - 1)
        left.bar(x, heights, 0.25, color=color, label=label)
    left.axhline(1, ls=":", color=COLORS["before"])
    left.set_xticks(range(len(rows)), [_LABELS[row] for row in rows], fontsize=8)
    left.set(ylabel="standard deviation / default, equal dose")
    left.legend(frameon=False)
    (edge,) = read_arrays(folder, "k_edge_keV")
    for ax, (row, color) in zip(right, _SPECTRA.items(), strict=True):
        energies, counts, thresholds = read_arrays(
            folder, f"registered_keV/{row}", f"registered_per_keV/{row}", f"thresholds_keV/{row}"
        )
        ax.fill_between(energies, counts, color=COLORS["unobservable"])
        ax.plot(energies, counts, color=color, lw=1)
        for threshold in thresholds:
            ax.axvline(threshold, color=color, lw=1)
        if np.isfinite(edge[0]):
            ax.axvline(edge[0], ls="--", color="#1e8449", lw=1)
        kV = numbers[f"tube_voltage_kV.{row}"]
        title = f"{_LABELS[row]}, {kV:g} kV".replace("\n", " ")
        ax.set(xlim=(10, 141), ylim=(0, None))
        ax.set_title(title, loc="right", y=0.7)
    spectra.supylabel("counts per keV behind the head", fontsize=9)
    right[-1].set_xlabel("registered energy (keV)")
    return figure


def slices(folder: Path) -> Figure:
    """Maps of the contrast agent (mg/mL) at equal dose: one scan, and the mean of all draws.

    Default protocol, designed thresholds, and designed thresholds, tube voltage and filter. The
    color scale ends at three times the concentration of the insert. Rays along the skull expect few
    photons of low energy, which streaks at its edge show.
    """
    numbers = read_numbers(folder)
    (name,) = read_words(folder, "insert")
    most = 3 * float(name.split()[1])
    shown = list(_SPECTRA)
    figure = new_figure(3.4 * len(shown), 6.2)
    axes = figure.subplots(2, len(shown))
    for column, row in zip(axes.T, shown, strict=True):
        one, mean = read_arrays(folder, f"one_draw/{row}", f"mean/{row}")
        sd = numbers[f"voxel_sd_mg_mL.{row}"]
        title = f"{_LABELS[row]}, sd {sd:.3g} mg/mL".replace("\n", " ")
        show_image(column[0], one, (-most, most), title, unit=f"{name.split()[0]} (mg/mL)")
        show_image(column[1], mean, (-most, most), "mean of all draws")
    return figure
