"""Figure of the comparison of calibrations."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names
from pcctlearn.figures.style import new_figure

_QUANTITIES = {
    "threshold_sd_keV": "threshold error (keV)",
    "projection_sd": "projection error",
    "water_rms_mm": "water (mm)",
}


def errors(folder: Path) -> Figure:
    """Errors of all calibrations, for each detector (columns) and number of photons.

    Standard deviations over the pixels for the highest threshold and for projections of 20 cm of
    water above it, and the RMS error of water in the decomposition of lengths that no plate had.
    Means over the draws of the noise, with their ranges. Calibrations without thresholds are absent
    from the first row.
    """
    names = [name for name in read_names(folder) if name.split("/")[0] == "water_rms_mm"]
    places = dict.fromkeys(name.split("/")[1].rpartition(".")[0] for name in names)
    calibrations = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    cases = list(dict.fromkeys(place.rpartition("_")[0] for place in places))
    photons = list(dict.fromkeys(place.rpartition("_")[2] for place in places))
    existing = set(read_names(folder))
    keV = max(
        (n.split("/")[0].rpartition("_")[2] for n in existing if "projection_sd" in n), key=float
    )
    figure = new_figure(2.4 * len(cases) + 1.6, 6.4)
    axes = figure.subplots(len(_QUANTITIES), len(cases), sharey="row", sharex=True, squeeze=False)
    for row, (quantity, label) in zip(axes, _QUANTITIES.items(), strict=True):
        full = quantity if quantity.endswith("mm") else f"{quantity}_{keV}"
        for axis, case in zip(row, cases, strict=True):
            for index, calibration in enumerate(calibrations):
                keys = [f"{full}/{case}_{level}.{calibration}" for level in photons]
                if not existing.issuperset(keys):
                    continue
                values = np.stack(read_arrays(folder, *keys))
                middle, level = values.mean(1), np.array([float(n) for n in photons])
                place = level * 10 ** (0.05 * (index - len(calibrations) / 2))
                bars = [middle - values.min(1), values.max(1) - middle]
                style = "-" if calibration == "hybrid" else ":"
                axis.errorbar(
                    place, middle, bars, fmt=f"o{style}", markersize=3,
                    label=calibration.replace("_", " "), color=f"C{index}",
                )  # fmt: skip
            axis.set(xscale="log", yscale="log")
        row[0].set_ylabel(label)
    for axis, case in zip(axes[0], cases, strict=True):
        axis.set_title(case.replace("_", " "))
    for axis in axes[-1]:
        axis.set_xlabel("photons a pixel")
    handles, labels = axes[-1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    return figure
