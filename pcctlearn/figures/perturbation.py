"""The solver's surface and the tangent plane of the implicit derivative."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays
from pcctlearn.figures.style import COLOURS, new_figure

_AXES = {"counts": ("counts, bin {} (%)", 1), "thresholds": ("threshold {} (keV)", 0)}


def tangent_planes(folder: Path) -> Figure:
    """Decomposed thickness when counts (left pair) or thresholds (right pair) are perturbed.

    Grid: solved again at every node. Plane: the derivative at the centre. Where the grid breaks
    off, the thresholds have crossed the fold beyond which more calcium gives the same counts as
    less.
    """
    figure = new_figure(13.0, 3.9)
    panels = [(kind, material) for kind in _AXES for material in ("water", "calcium")]
    for i, (kind, material) in enumerate(panels):
        names = (f"{kind}/{what}_{material}_cm" for what in ("surface", "plane"))
        axis, surface, plane = read_arrays(folder, f"{kind}/axis", *names)
        first, second = np.meshgrid(axis, axis, indexing="ij")
        ax = figure.add_subplot(1, 4, i + 1, projection="3d")
        ax.plot_surface(first, second, plane, color=COLOURS["plane"], alpha=0.45, linewidth=0)
        ax.plot_wireframe(
            first, second, surface, color=COLOURS["after"], linewidth=0.6, rstride=2, cstride=2
        )
        label, start = _AXES[kind]
        ax.set_xlabel(label.format(start))
        ax.set_ylabel(label.format(start + 1))
        ax.set_title(f"{material} (cm), {kind} perturbed")
        ax.view_init(elev=22, azim=-55)
    return figure
