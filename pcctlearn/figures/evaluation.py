"""Figures of evaluated scans: scattered fraction, slices of maps and monoenergetic images."""

from pathlib import Path

import h5py
import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays
from pcctlearn.figures.style import DISPLAY_WINDOWS, new_figure, show_image
from pcctlearn.units import MG_ML


def scatter_fraction(folder: Path, name: str) -> Figure:
    """Scattered fraction of the counts of each bin, first view."""
    fraction, edges = read_arrays(folder, f"{name}/scatter_fraction", f"{name}/edges_keV")
    figure = new_figure(3.0 * len(fraction), 2.5)
    axes = figure.subplots(1, len(fraction), squeeze=False)[0]
    most = 100 * float(fraction.max())
    for number, (ax, panel) in enumerate(zip(axes, fraction, strict=True)):
        shown = ax.imshow(100 * panel, origin="lower", cmap="magma", vmin=0, vmax=most)
        ax.set_title(f"{edges[number]:.3g} … {edges[number + 1]:.3g} keV")
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(shown, ax=axes, label="scatter / counts (%)", shrink=0.8, pad=0.01)
    return figure


def slices(folder: Path, name: str) -> Figure:
    """Central slices, axial (anterior at the top) and coronal (head at the top).

    The patient's right is on the left side; unknown voxels are white. A scan of one slice has no
    coronal one.
    """
    voxel_cm, images = _cuts(folder, name, "")
    figure, columns = _panels(images)
    for (label, (axial, coronal)), axes in zip(images.items(), columns, strict=True):
        title, window = _title_and_window(label)
        show_image(axes[0], axial, window, title)
        if len(axes) == 2:
            show_image(axes[1], coronal[::-1], window, "")
        _set_aspects(axes, voxel_cm)
    return figure


def noise(folder: Path, name: str) -> Figure:
    """Standard deviation of maps and monoenergetic images in every voxel of the same slices.

    It is carried from the photons of this scan, not drawn. White: not known.
    """
    voxel_cm, images = _cuts(folder, name, "_noise")
    figure, columns = _panels(images)
    for (label, (axial, coronal)), axes in zip(images.items(), columns, strict=True):
        title, _ = _title_and_window(label)
        known = axial[np.isfinite(axial)]
        window = (0.0, float(np.quantile(known, 0.995)) if known.size else 1.0)
        show_image(axes[0], axial, window, f"sd of {title}", "viridis")
        if len(axes) == 2:
            show_image(axes[1], coronal[::-1], window, "", "viridis")
        _set_aspects(axes, voxel_cm)
    return figure


_Cuts = dict[str, tuple[np.ndarray, np.ndarray]]


def _cuts(folder: Path, name: str, kind: str) -> tuple[np.ndarray, _Cuts]:
    """Voxel size (z, y, x) in cm, and axial and coronal slice of every label, images first."""
    axial = f"axial{kind}."
    with h5py.File(folder / "arrays.h5") as file:
        group = file[name]
        labels = sorted(
            (key.removeprefix(axial) for key in group if key.startswith(axial)),
            key=lambda label: not label.startswith("vmi"),
        )
        images = {
            label: (group[f"{axial}{label}"][()], group[f"coronal{kind}.{label}"][()])
            for label in labels
        }
        return group["voxel_cm"][()], images


def _panels(images: _Cuts) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (image, cut); a scan of one slice has no coronal cut."""
    n_cuts = min(2, max(len(coronal) for _, coronal in images.values()))
    figure = new_figure(3.6 * len(images), 3.3 * n_cuts)
    return figure, figure.subplots(n_cuts, len(images), squeeze=False).T


def _set_aspects(axes: np.ndarray, voxel_cm: np.ndarray) -> None:
    dz, dy, dx = voxel_cm
    for ax, aspect in zip(axes, (dy / dx, dz / dx), strict=False):
        ax.set_aspect(aspect)


def _title_and_window(label: str) -> tuple[str, tuple[float, float]]:
    if label.endswith("_HU"):
        return label.removesuffix("_HU").replace("_", " ") + " (HU)", DISPLAY_WINDOWS["HU"]
    material = label.removesuffix("_mg_mL")
    low, high = DISPLAY_WINDOWS.get(material, (0.0, 0.3))
    return f"{material} (mg/mL)", (MG_ML * low, MG_ML * high)
