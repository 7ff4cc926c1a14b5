"""Figures of a simulated data set, drawn from its scan files."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from matplotlib.figure import Figure

from pcctlearn.figures.style import WINDOWS, new_figure
from pcctlearn.physics.vmi import MonoenergeticImages

_MOST_CASES = 10


def primary_and_scatter(folder: Path, scans: Sequence[Path]) -> Figure:
    """Primary and scatter over air, and scatter over primary, per bin, in two views."""
    with h5py.File(scans[0]) as file:
        air, thresholds = file["air"][()], file["thresholds_keV"][()]
        n_views = file["primary"].shape[1]
        views = [0, n_views // 3] if n_views > 2 else [0]
        primary, scatter = (file[name][:, views] for name in ("primary", "scatter"))
    n_bins = len(air)
    rows = {
        "primary / air": (np.log10(np.maximum(primary / air[:, None], 1e-6)), "log₁₀"),
        "scatter / air": (scatter / air[:, None], ""),
        "scatter / primary": (np.log10(np.maximum(scatter / primary, 1e-6)), "log₁₀"),
    }
    figure = new_figure(3.0 * n_bins, 2.1 * len(rows) * len(views))
    axes = figure.subplots(len(rows) * len(views), n_bins, squeeze=False)
    edges = thresholds.reshape(-1, n_bins + 1).mean(0)
    for place, view in enumerate(views):
        for number, (title, (values, scale)) in enumerate(rows.items()):
            shown = values[:, place]
            low, high = np.percentile(shown, [1, 99.5])
            for b, ax in enumerate(axes[place * len(rows) + number]):
                image = ax.imshow(shown[b], origin="lower", cmap="magma", vmin=low, vmax=high)
                ax.set_xticks([])
                ax.set_yticks([])
                if place == number == 0:
                    ax.set_title(f"{edges[b]:.3g} … {edges[b + 1]:.3g} keV")
            axes[place * len(rows) + number][0].set_ylabel(f"view {view}\n{title}")
            figure.colorbar(
                image, ax=axes[place * len(rows) + number], label=scale, shrink=0.8, pad=0.01
            )
    return figure


def cases(folder: Path, scans: Sequence[Path]) -> Figure:
    """Axial and coronal slices through the middle of each object, at 60 keV."""
    paths = scans[:_MOST_CASES]
    figure = new_figure(1.0 + 1.7 * len(paths), 4.4)
    axes = figure.subplots(2, len(paths), squeeze=False)
    low, high = WINDOWS["HU"]
    for path, column in zip(paths, axes.T, strict=True):
        for ax, image in zip(column, _slices_HU(path), strict=True):
            shown = ax.imshow(image, cmap="gray", vmin=low, vmax=high)
            ax.set_axis_off()
        column[0].set_title(path.stem, fontsize=7)
    figure.colorbar(shown, ax=axes, label="HU", shrink=0.6, aspect=30, pad=0.01)
    return figure


def _slices_HU(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        maps = file["maps"]
        z, y = maps.shape[1] // 2, maps.shape[2] // 2
        axial, coronal = maps[:, z], maps[:, :, y][:, ::-1]  # the head on top
        materials = [str(name) for name in maps.attrs["materials"]]
    vmi = MonoenergeticImages(materials, [60.0])
    images = (torch.from_numpy(np.ascontiguousarray(a))[None] for a in (axial, coronal))
    first, second = (vmi.hounsfield(image)[0, 0].numpy() for image in images)
    return first, second
