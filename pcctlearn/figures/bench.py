"""Figures of the raw frames of a bench."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays
from pcctlearn.figures.style import COLORS, new_figure


def frames(folder: Path) -> Figure:
    """A raw frame of every view of the scan above the lowest threshold, and the monitor.

    Columns that are missing between modules are not in the frames. The monitor shows the drift of
    the tube, which the counts have, too.
    """
    sinogram, monitor = read_arrays(folder, "sinogram", "monitor")
    figure = new_figure(7.0, 4.0)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[4, 1])
    low, high = np.percentile(sinogram, [1, 99])
    image = left.imshow(sinogram, aspect="auto", cmap="gray", vmin=low, vmax=high)
    left.set(xlabel="column of the raw frames", ylabel="view")
    figure.colorbar(image, ax=left, label="counts", shrink=0.8)
    right.plot(monitor, np.arange(len(monitor)), color=COLORS["reference"])
    right.set(xlabel="monitor")
    return figure
