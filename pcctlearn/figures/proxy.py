"""Figures of the errors of a proxy over the box of its training."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names
from pcctlearn.figures.style import new_figure

_SUFFIX = "_error_cm"


def value_errors(folder: Path) -> Figure:
    """Error of the proxy's line integrals (cm) over the box, expected counts.

    The reference is the maximum-likelihood decomposition. White: no solution.
    """
    return _maps(folder, _SUFFIX, "{} (cm)", 1.0)


def jacobian_errors(folder: Path) -> Figure:
    """Relative error of the derivatives of each material in the log counts (%) over the box.

    The reference is the implicit derivative of the maximum-likelihood decomposition.
    """
    return _maps(folder, "_jacobian_error", "derivative of {} (%)", 100.0)


def _maps(folder: Path, suffix: str, title: str, factor: float) -> Figure:
    materials = _materials(folder)
    axes = read_arrays(folder, *(f"map/{m}_cm" for m in materials))
    figure = new_figure(8.6, 3.4)
    for ax, m in zip(figure.subplots(1, 2), materials, strict=True):
        (errors,) = read_arrays(folder, f"map/{m}{suffix}")
        limit = factor * float(np.nanquantile(np.abs(errors), 0.99))
        signed = bool(np.nanmin(errors) < 0)
        shown = ax.pcolormesh(
            *axes,
            factor * errors.T,
            cmap="RdBu_r" if signed else "viridis",
            vmin=-limit if signed else 0.0,
            vmax=limit,
            rasterized=True,
        )
        ax.set(xlabel=f"{materials[0]} (cm)", ylabel=f"{materials[1]} (cm)", title=title.format(m))
        figure.colorbar(shown, ax=ax, extend="both" if signed else "max")
    return figure


def _materials(folder: Path) -> list[str]:
    """The two materials, in the order of the axes of the maps."""
    names = [name for name in read_names(folder) if name.endswith(_SUFFIX)]
    found = [name.removeprefix("map/").removesuffix(_SUFFIX) for name in names]
    return sorted(found, key=lambda m: m != "water")
