"""Figure of threshold biases from fluorescence."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names
from pcctlearn.figures.style import COLORS, new_figure

_AVERAGED = 9  # pixels


def biases(folder: Path) -> Figure:
    """Bias of one threshold from fluorescence, from ETB-Cal, and the true one.

    Left: running means of 9 pixels, for the detector of the least common skew. Between the dashed
    lines, pixels have enough fluorescence; beyond them, the bias is that of the nearest usable
    pixel. Right: biases of the usable pixels against the true ones.
    """
    places = [name for name in read_names(folder) if name.startswith("bias_")]
    detectors = {name.split("/")[0] for name in places}
    start = min(detectors, key=lambda name: abs(float(name[len("bias_") : -len("mm")])))
    label = start.removeprefix("bias_")
    names = [name.split("/")[1] for name in places if name.startswith(f"{start}/")]
    names = [name for name in names if name != "true"]
    true, usable = read_arrays(folder, f"{start}/true", f"usable/{label}")
    good = usable.astype(bool)
    figure = new_figure(10.0, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=[2.4, 1])
    left.plot(_smooth(true), color="black", linewidth=1.0, label="true")
    for index, name in enumerate(sorted(names, key=lambda name: name != "fluorescence")):
        (bias,) = read_arrays(folder, f"{start}/{name}")
        title = name.replace("_", " ")
        left.plot(_smooth(bias), color=f"C{index}", linewidth=0.8, label=title)
        right.plot(true[good], bias[good], ".", color=f"C{index}", markersize=2, label=title)
    for place in (np.flatnonzero(good)[0], np.flatnonzero(good)[-1]):
        left.axvline(place, color=COLORS["unobservable"], linestyle="--", linewidth=0.8)
    left.set(xlabel="pixel", ylabel="bias (keV)")
    left.legend(frameon=False, fontsize=8)
    limits = [true[good].min(), true[good].max()]
    right.plot(limits, limits, color="black", linewidth=0.8)
    right.set(xlabel="true bias (keV)", ylabel="bias found (keV)")
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    return np.convolve(values, np.ones(_AVERAGED) / _AVERAGED, "valid")
