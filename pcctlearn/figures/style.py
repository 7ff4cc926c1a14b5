"""Style of all figures: a color has the same meaning in every figure."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterMathtext

COLORS = {
    "reference": "#1f4e79",
    "before": "#c0392b",
    "after": "#1d1d1f",
    "plane": "#2e86c1",
    "unobservable": "#d5d8dc",
}
# limits in g/cm³ and HU
DISPLAY_WINDOWS = {
    "water": (0.8, 1.2),
    "calcium": (0.0, 0.3),
    "iodine": (-0.006, 0.018),
    "gadolinium": (-0.006, 0.018),
    "HU": (-160.0, 240.0),
    "error": (-50.0, 50.0),
}
WORDS = {"water": "water (g/cm³)", "calcium": "calcium (g/cm³)"}


class PlainFigure(Figure):
    """A figure that draws text literally: a ``$`` in the name of a scan starts no formula."""

    def draw(self, renderer: RendererBase) -> None:
        """Disable formulas except in the tick labels of logarithmic axes."""
        powers = set()
        for axis in self.findobj(Axis):
            axis.get_ticklabels(which="both")  # creates the labels
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                powers |= set(axis.findobj(Text)) - {axis.label}
        for text in self.findobj(Text):
            text.set_parse_math(text in powers)
        super().draw(renderer)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, drawn without a display."""
    mpl.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 9,
            "figure.dpi": 130,
        }
    )
    return PlainFigure(figsize=(width, height), layout="constrained")


def show_image(
    ax: Axes,
    image: np.ndarray,
    display_window: Sequence[float],
    title: str,
    cmap: str = "gray",
    unit: str = "",
) -> None:
    """Show an image with its color bar and its unit, row 0 at the top."""
    low, high = display_window
    shown = ax.imshow(image, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    ax.set_title(title)
    ax.set_axis_off()
    figure = ax.figure
    assert isinstance(figure, Figure)
    figure.colorbar(shown, ax=ax, shrink=0.72, pad=0.015, aspect=24, label=unit)
