"""Figures of scatter corrections side by side: images, projections, and errors of every scan."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays
from pcctlearn.figures.scatter_correction import compared
from pcctlearn.figures.style import COLOURS, new_figure

CAPTIONS = {
    "images": "The first test scan, monoenergetic images: without correction, with each method "
    "(its first run), and of the scatter-free counts; below, the difference from the last. The "
    "numbers are root mean square differences over the whole body, means over the runs.",
    "maps": "Its middle slice in water and calcium: differences from the scatter-free scan.",
    "projections": "Its first view: errors of the line integrals of water and calcium.",
    "boxes": "Errors of all test scans, means over the runs of each method: median, quartiles, and "
    "the whole range.",
}
_MATERIALS = ("water", "calcium")
_MAPS_mg_mL, _PROJECTIONS_g_cm2 = (50.0, 25.0), (1.0, 0.3)  # ends of the scales


def images(folder: Path) -> Figure:
    """Axial and coronal slices, and their differences, of every method."""
    reference = read_arrays(folder, "reference/vmi_HU")[0]
    volumes = {}
    for method in _methods(folder):
        label = _label(folder, method)
        volumes[label] = read_arrays(folder, f"{method}/vmi_HU")[0]
    return compared({**volumes, "scatter-free": reference}, reference)


def maps(folder: Path) -> Figure:
    """Differences of the middle slice in both materials."""
    reference = read_arrays(folder, "reference/axial_maps")[0]
    shown = {
        m: 1000 * (read_arrays(folder, f"{m}/axial_maps")[0] - reference) for m in _methods(folder)
    }
    return _rows(shown, "mg/mL", _MAPS_mg_mL)


def projections(folder: Path) -> Figure:
    """Errors of the first view's line integrals in both materials."""
    reference = read_arrays(folder, "reference/line_integrals")[0]
    shown = {
        m: read_arrays(folder, f"{m}/line_integrals")[0][:, ::-1] - reference[:, ::-1]
        for m in _methods(folder)
    }
    return _rows(shown, "g/cm²", _PROJECTIONS_g_cm2)


def boxes(folder: Path) -> Figure:
    """A box for each method, in a panel for each error."""
    with h5py.File(folder / "arrays.h5") as file:
        table = {name: values[()] for name, values in file["errors"].items()}
    methods = _methods(folder)
    metrics = [name.partition(".")[0] for name in table if name.endswith(".uncorrected")]
    metrics = [name for name in metrics if not name.startswith("noisy")]
    figure = new_figure(2.2 * len(metrics), 3.4)
    for ax, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        ax.boxplot(
            [table[f"{metric}.{method}"] for method in methods],
            whis=(0, 100),
            medianprops={"color": COLOURS["before"]},
        )
        ax.set_xticks(range(1, len(methods) + 1), methods, rotation=40, ha="right", fontsize=7)
        ax.set_ylim(bottom=0)
        ax.set_title(metric.replace("_", " "), fontsize=8)
    return figure


def _rows(shown: dict[str, np.ndarray], unit: str, limits: Sequence[float]) -> Figure:
    """A row for each material, a column for each method."""
    first = next(iter(shown.values()))
    height = 2.6 * first.shape[1] / first.shape[2] + 0.3
    figure = new_figure(2.6 * len(shown) + 0.8, len(_MATERIALS) * height + 0.4)
    axes = figure.subplots(len(_MATERIALS), len(shown), squeeze=False)
    for number, (material, limit) in enumerate(zip(_MATERIALS, limits, strict=True)):
        row = axes[number]
        for ax, (method, values) in zip(row, shown.items(), strict=True):
            drawn = ax.imshow(values[number], cmap="RdBu_r", vmin=-limit, vmax=limit)
            ax.set_axis_off()
            if number == 0:
                ax.set_title(method)
        figure.colorbar(drawn, ax=row, label=f"{material}, difference ({unit})", pad=0.01)
    return figure


def _methods(folder: Path) -> list[str]:
    """Uncorrected first, then in the order of their errors' names."""
    with h5py.File(folder / "arrays.h5") as file:
        found = [name for name, group in file.items() if "vmi_HU" in group]
    rest = [name for name in found if name not in ("uncorrected", "reference")]
    return ["uncorrected", *rest]


def _label(folder: Path, method: str) -> str:
    with h5py.File(folder / "arrays.h5") as file:
        (name,) = (n for n in file["errors"] if n.startswith("vmi") and n.endswith(f".{method}"))
        error = file["errors"][name][0]
    return f"{method}: {error:.1f} HU"
