"""Figure of re-solved, perturbed decompositions and the planes of the implicit derivative."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays
from pcctlearn.figures.style import COLORS, new_figure

_AXES = {"counts": ("counts, bin {} (%)", 1), "thresholds": ("threshold {} (keV)", 0)}


def tangent_planes(folder: Path) -> Figure:
    """Decomposed thickness for perturbed counts (left pair) and thresholds (right pair).

    Wireframe: re-solved at every node. Plane: implicit derivative at the center. The wireframe
    breaks off at the fold between two solutions that have equal counts but different amounts of
    calcium.
    """
    figure = new_figure(13.0, 3.9)
    panels = [(kind, material) for kind in _AXES for material in ("water", "calcium")]
    for i, (kind, material) in enumerate(panels):
        names = (f"{kind}/{what}_{material}_cm" for what in ("surface", "plane"))
        axis, surface, plane = read_arrays(folder, f"{kind}/axis", *names)
        first, second = np.meshgrid(axis, axis, indexing="ij")
        ax = figure.add_subplot(1, 4, i + 1, projection="3d")
        ax.plot_surface(first, second, plane, color=COLORS["plane"], alpha=0.45, linewidth=0)
        ax.plot_wireframe(
            first, second, surface, color=COLORS["after"], linewidth=0.6, rstride=2, cstride=2
        )
        label, start = _AXES[kind]
        ax.set_xlabel(label.format(start))
        ax.set_ylabel(label.format(start + 1))
        ax.set_title(f"{material} (cm), {kind} perturbed")
        ax.view_init(elev=22, azim=-55)
    return figure
