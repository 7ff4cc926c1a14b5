"""Figures that compare scatter corrections: images, projections, and errors of all scans."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_errors, read_words
from pcctlearn.figures.scatter_correction import compared
from pcctlearn.figures.style import COLORS, new_figure
from pcctlearn.metrics.errors import UNCORRECTED
from pcctlearn.physics.attenuation import density_g_cm3
from pcctlearn.units import MG_ML


def images(folder: Path) -> Figure:
    """Monoenergetic images of the first test scan: uncorrected, corrected, and scatter-free.

    Each correction is that of the first run of its method. Below each image: difference from the
    scatter-free one. Numbers: RMS difference over the whole body, averaged over the runs.
    """
    reference = read_arrays(folder, "reference/vmi_HU")[0]
    volumes = {}
    for method in _pictured(folder):
        label = _label(folder, method)
        volumes[label] = read_arrays(folder, f"{method}/vmi_HU")[0]
    return compared({**volumes, "scatter-free": reference}, reference)


def maps(folder: Path) -> Figure:
    """Differences of density maps from the scatter-free ones: first test scan, central slice."""
    reference = read_arrays(folder, "reference/axial_maps")[0]
    shown = {
        m: MG_ML * (read_arrays(folder, f"{m}/axial_maps")[0] - reference)
        for m in _pictured(folder)
    }
    return _rows(shown, "mg/mL", read_words(folder, "materials"))


def projections(folder: Path) -> Figure:
    """Errors of the line integrals as material thickness: first test scan, first view."""
    reference = read_arrays(folder, "reference/line_integrals")[0]
    materials = read_words(folder, "materials")
    densities = np.array([density_g_cm3(name) for name in materials])[:, None, None]
    shown = {
        m: (read_arrays(folder, f"{m}/line_integrals")[0] - reference)[:, ::-1] / densities
        for m in _pictured(folder)
    }
    return _rows(shown, "cm", materials)


def boxes(folder: Path) -> Figure:
    """Errors of all test scans, averaged over the runs of each method: median, quartiles, range."""
    table, methods = read_errors(folder), _methods(folder)
    metrics = [metric for metric in table.of(UNCORRECTED) if not metric.noisy]
    figure = new_figure(2.2 * len(metrics), 3.4)
    for ax, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        ax.boxplot(
            [table.values[metric, method] for method in methods],
            whis=(0, 100),
            medianprops={"color": COLORS["before"]},
        )
        ax.set_xticks(range(1, len(methods) + 1), methods, rotation=40, ha="right", fontsize=7)
        ax.set_ylim(bottom=0)
        ax.set_title(metric.label, fontsize=8)
    return figure


def _rows(shown: dict[str, np.ndarray], unit: str, materials: Sequence[str]) -> Figure:
    """A row for each material, a column for each method, with the color scale of the first one."""
    first = next(iter(shown.values()))
    height = 2.6 * first.shape[1] / first.shape[2] + 0.3
    figure = new_figure(2.6 * len(shown) + 0.8, len(materials) * height + 0.4)
    axes = figure.subplots(len(materials), len(shown), squeeze=False)
    for number, material in enumerate(materials):
        row, limit = axes[number], np.quantile(np.abs(first[number]), 0.99)
        for ax, (method, values) in zip(row, shown.items(), strict=True):
            drawn = ax.imshow(values[number], cmap="RdBu_r", vmin=-limit, vmax=limit)
            ax.set_axis_off()
            if number == 0:
                ax.set_title(method)
        figure.colorbar(drawn, ax=row, label=f"{material}, difference ({unit})", pad=0.01)
    return figure


def _methods(folder: Path) -> list[str]:
    """All methods, the uncorrected case first."""
    return ["uncorrected", *read_words(folder, "methods")]


def _pictured(folder: Path) -> list[str]:
    """Methods with images, the uncorrected case first."""
    return ["uncorrected", *read_words(folder, "pictured")]


def _label(folder: Path, method: str) -> str:
    table = read_errors(folder)
    error = table.values[table.image_metrics[0], method][0]
    return f"{method}: {error:.1f} HU"
