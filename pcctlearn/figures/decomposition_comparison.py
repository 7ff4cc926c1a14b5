"""Figures of the comparison of decompositions."""

from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_numbers, read_words
from pcctlearn.figures.style import COLORS, new_figure

_MARKERS = "osD^vP"


def bias_and_noise(folder: Path) -> Figure:
    """Bias (cm) and noise over the Cramér–Rao bound against the exposure, by decomposition.

    Top: RMS of the mean error over the range; biases that the draws do not resolve are not shown.
    Dashed: the bound of the standard deviation of one ray. Bottom: standard deviation over the
    bound, which is 1 (dashed) for the least noise of an estimate without bias. Points where a bin
    expects fewer than 25 counts are left out, so the points of higher exposures include thicker
    objects.
    """
    numbers = read_numbers(folder)
    materials, methods, ranges, exposures = (
        read_words(folder, name) for name in ("materials", "methods", "ranges", "exposures")
    )
    (photons,) = read_arrays(folder, "photons")
    panels = [(name, material) for name in ranges for material in materials]
    figure = new_figure(3.1 * len(panels), 5.6)
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False)
    for column, (name, material) in enumerate(panels):
        top, bottom = axes[:, column]
        of = f"{name}_{material}"
        bound = [numbers[f"{of}_crlb_cm_{e}"] for e in exposures]
        top.plot(photons, bound, "--", color=COLORS["reference"], label="Cramér–Rao bound (sd)")
        bottom.axhline(1, ls="--", color=COLORS["reference"])
        for method, color, marker in zip(methods, _colors(), cycle(_MARKERS), strict=False):
            bias = np.array([numbers[f"{of}_bias_cm_{e}.{method}"] for e in exposures])
            ratio = [numbers[f"{of}_sd_over_crlb_{e}.{method}"] for e in exposures]
            style = {"color": color, "marker": marker, "ms": 4, "lw": 1}
            label = method.replace("_", " ")
            top.plot(photons, np.where(bias > 0, bias, np.nan), label=label, **style)
            bottom.plot(photons, ratio, **style)
        top.set(xscale="log", yscale="log", title=f"{material}, {name}")
        bottom.set(xlabel="photons without an object")
    axes[0, 0].set_ylabel("bias, RMS (cm)")
    axes[1, 0].set_ylabel("standard deviation / bound")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def clean_errors(folder: Path) -> Figure:
    """Errors (cm) of each decomposition over the first range, for counts without noise.

    Colors are logarithmic. Errors below 1e-6 cm, where float32 ends, are shown as 1e-6 cm.
    """
    materials, methods, ranges = (
        read_words(folder, name) for name in ("materials", "methods", "ranges")
    )
    sides = read_arrays(folder, *(f"{ranges[0]}/{m}_cm" for m in materials))
    figure = new_figure(2.0 * len(methods) + 1.2, 4.4)
    axes = figure.subplots(len(materials), len(methods), sharex=True, sharey=True, squeeze=False)
    for row, material in zip(axes, materials, strict=True):
        for ax, method in zip(row, methods, strict=True):
            (error,) = read_arrays(folder, f"{ranges[0]}/{material}_error_cm.{method}")
            shown = _show(ax, sides, np.abs(error).clip(1e-6))
        figure.colorbar(shown, ax=list(row), label=f"error of {material} (cm)", extend="both")
    for ax, method in zip(axes[0], methods, strict=True):
        ax.set_title(method.replace("_", " "))
    for ax in axes[-1]:
        ax.set_xlabel(f"{materials[0]} (cm)")
    for ax in axes[:, 0]:
        ax.set_ylabel(f"{materials[1]} (cm)")
    return figure


def _show(ax: Axes, sides: list[np.ndarray], error: np.ndarray) -> mpl.collections.QuadMesh:
    return ax.pcolormesh(*sides, error.T, norm=LogNorm(1e-6, 1e-1), cmap="viridis", rasterized=True)


def _colors() -> list[str]:
    return [f"C{i}" for i in range(10)]
