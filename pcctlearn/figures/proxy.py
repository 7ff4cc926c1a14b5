"""Figures of the errors of a proxy over the box of its training."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_words
from pcctlearn.figures.style import new_figure

_SHOWN = 0.99  # share of the map within the limits of the colors


def value_errors(folder: Path) -> Figure:
    """Error of the proxy's line integrals (cm) over the box, for expected counts.

    The reference is the maximum-likelihood decomposition. White: no error, or no solution.
    """
    return _maps(folder, "error_cm", "error of {} (cm)", signed=True)


def jacobian_errors(folder: Path) -> Figure:
    """Relative error of the derivatives in the log counts (%) over the box, for expected counts.

    The reference is the implicit derivative of the maximum-likelihood decomposition.
    """
    return _maps(folder, "jacobian_error", "error of the derivatives of {} (%)", signed=False)


def _maps(folder: Path, name: str, title: str, signed: bool) -> Figure:
    materials = read_words(folder, "map/materials")
    axes = read_arrays(folder, *(f"map/{m}_cm" for m in materials))
    figure = new_figure(8.6, 3.4)
    for ax, m in zip(figure.subplots(1, 2), materials, strict=True):
        errors = read_arrays(folder, f"map/{m}_{name}")[0].T * (1 if signed else 100)
        limit = float(np.nanquantile(np.abs(errors), _SHOWN))
        colors = {"cmap": "RdBu_r", "vmin": -limit} if signed else {"cmap": "viridis", "vmin": 0.0}
        shown = ax.pcolormesh(*axes, errors, vmax=limit, **colors)
        ax.set(xlabel=f"{materials[0]} (cm)", ylabel=f"{materials[1]} (cm)", title=title.format(m))
        figure.colorbar(shown, ax=ax, extend="both" if signed else "max")
    return figure
