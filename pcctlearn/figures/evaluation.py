"""Figures of evaluated scans: scattered fraction, slices of maps and monoenergetic images."""

from pathlib import Path

import h5py
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
    with h5py.File(folder / "arrays.h5") as file:
        group = file[name]
        dz, dy, dx = group["voxel_cm"][()]
        labels = sorted(
            (key.removeprefix("axial.") for key in group if key.startswith("axial.")),
            key=lambda label: not label.startswith("vmi"),
        )
        images = {
            label: (group[f"axial.{label}"][()], group[f"coronal.{label}"][()]) for label in labels
        }
    n_cuts = min(2, max(len(coronal) for _, coronal in images.values()))
    figure = new_figure(3.6 * len(images), 3.3 * n_cuts)
    columns = figure.subplots(n_cuts, len(images), squeeze=False).T
    for (label, (axial, coronal)), axes in zip(images.items(), columns, strict=True):
        title, window = _title_and_window(label)
        show_image(axes[0], axial, window, title)
        axes[0].set_aspect(dy / dx)
        if n_cuts == 2:
            show_image(axes[1], coronal[::-1], window, "")
            axes[1].set_aspect(dz / dx)
    return figure


def _title_and_window(label: str) -> tuple[str, tuple[float, float]]:
    if label.endswith("_HU"):
        return label.removesuffix("_HU").replace("_", " ") + " (HU)", DISPLAY_WINDOWS["HU"]
    material = label.removesuffix("_mg_mL")
    low, high = DISPLAY_WINDOWS.get(material, (0.0, 0.3))
    return f"{material} (mg/mL)", (MG_ML * low, MG_ML * high)
