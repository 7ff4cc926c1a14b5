"""Figures of the cone-beam study: scan geometry, central slices, and convergence."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_numbers
from pcctlearn.figures.setup import draw_setup
from pcctlearn.figures.style import COLORS, DISPLAY_WINDOWS, new_figure
from pcctlearn.tomography.geometry.setup import Setup

_METHODS = {
    "fdk": ("FDK", COLORS["after"]),
    "sirt": ("SIRT", "#7d3c98"),
    "os_sart": ("OS-SART", COLORS["before"]),
    "cgls": ("CGLS", COLORS["reference"]),
    "fista_tv": ("FISTA-TV", "#1e8449"),
}
_PLANES = {"axial": ("x", "y"), "coronal": ("x", "z"), "sagittal": ("y", "z")}  # axes right and up


def setup(folder: Path) -> Figure:
    """Scan geometry in one view, to scale, and the indices of a slice of the volume."""
    names = (f"setup/{name}" for name in Setup._fields)
    return draw_setup(Setup(*read_arrays(folder, *names)))


def central_slices(folder: Path) -> Figure:
    """Central slices in HU; RMSE over the whole head.

    In the axial slice x points right and y up; in the others z points up.
    """
    numbers = read_numbers(folder)
    titles = {"truth": "truth"}
    for name, (title, _) in _METHODS.items():
        if f"{name}_rmse_HU" in numbers:
            titles[name] = f"{title}, RMSE {numbers[f'{name}_rmse_HU']:.3g} HU"
    (edges_cm,) = read_arrays(folder, "slices/edges_cm")
    edges = dict(zip("zyx", edges_cm, strict=True))
    heights = [np.ptp(edges[up]) / np.ptp(edges[across]) for across, up in _PLANES.values()]
    figure = new_figure(1 + 2.2 * len(titles), 1 + 2.0 * sum(heights))
    axes = figure.subplots(3, len(titles), squeeze=False, height_ratios=heights)
    low, high = DISPLAY_WINDOWS["HU"]
    for row, (plane, (across, up)) in zip(axes, _PLANES.items(), strict=True):
        for ax, name in zip(row, titles, strict=True):
            (image,) = read_arrays(folder, f"{plane}/{name}_HU")
            extent = (*edges[across], *edges[up])
            shown = ax.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent)
            ax.set(xlabel=f"{across} (cm)", title=titles[name] if plane == "axial" else "")
        row[0].set_ylabel(f"{plane}: {up} (cm)")
    figure.colorbar(shown, ax=axes, label="HU", shrink=0.5, aspect=40, pad=0.01)
    return figure


def convergence(folder: Path) -> Figure:
    """Relative residual of the sinogram and error of the volume against the number of iterations.

    For OS-SART, an iteration is a pass over all subsets. Dashed: FDK. Dotted: ‖noise‖ / ‖sinogram‖;
    residuals stay above it, since voxels cannot represent the edges of the object.
    """
    numbers = read_numbers(folder)
    figure = new_figure(12.0, 3.6)
    residual, *errors = figure.subplots(1, 3)
    kinds = ("rmse_HU", "rmse_in_soft_tissue_HU")
    for name, (title, color) in _METHODS.items():
        if f"{name}_iterations" in numbers:
            residuals, curve = read_arrays(folder, f"residuals/{name}", f"errors/{name}")
            iterations = np.arange(1, len(residuals) + 1)
            residual.loglog(iterations, residuals, color=color, label=title)
            for ax, values in zip(errors, curve[1:], strict=True):
                ax.loglog(curve[0], values, "o-", color=color, markersize=3)
        elif f"{name}_rmse_HU" in numbers:
            for ax, kind in zip(errors, kinds, strict=True):
                ax.axhline(numbers[f"{name}_{kind}"], color=color, linestyle="--")
            residual.plot([], [], "--", color=color, label=title)  # FDK has no residual: legend
    noise = numbers["sinogram_noise_relative"]
    if noise > 0:
        residual.axhline(noise, color=COLORS["plane"], linestyle=":", label="noise")
    residual.set(xlabel="iteration or pass", ylabel="relative residual ‖A x − y‖ / ‖y‖")
    for ax, where in zip(errors, ("in the head", "in soft tissue"), strict=True):
        ax.set(xlabel="iteration or pass", ylabel=f"RMSE {where} (HU)")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
    for ax in (residual, *errors):
        ax.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    return figure
