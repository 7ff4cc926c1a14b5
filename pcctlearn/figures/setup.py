"""Drawing of a cone-beam setup from above and from the side, with the indices of its volume."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Rectangle

from pcctlearn.figures.style import COLORS, new_figure
from pcctlearn.tomography.geometry.setup import Point, Setup, unit

_SOURCE, _PANEL, _BLACK = COLORS["before"], COLORS["reference"], COLORS["after"]
_RAY, _VOLUME, _OFFSET = COLORS["plane"], COLORS["unobservable"], "#b9770e"


def draw_setup(setup: Setup) -> Figure:
    """The setup from above and from the side, and the indices of a slice; axes in cm."""
    figure = new_figure(14.0, 5.4)
    above, side, indices = figure.subplots(1, 3, width_ratios=[1.2, 1.3, 0.8])
    for ax, draw in ((above, _from_above), (side, _from_the_side), (indices, _indices)):
        ax.set_aspect("equal")
        draw(ax, setup)
    return figure


def _from_above(ax: Axes, s: Setup) -> None:
    source, foot, toward, e = s.source[:2], s.foot[:2], s.toward[:2], s.columns[:2]
    first, last = s.corners_cm[0, :, :2] + np.outer([-0.5, 0.5], e) * s.pixel_cm[1]
    reach = float(np.linalg.norm(source))
    _fan(ax, source, foot, first, last)
    _box(ax, s.edges_cm[2], s.edges_cm[1])
    _label(ax, "source", source, -e, _SOURCE)
    ax.plot(0, 0, "o", color=_BLACK, markersize=4)
    _label(ax, "axis", (0, 0), (0, 1), _BLACK)

    ax.plot([0, 0], [0, -reach], ":", color=_SOURCE)
    ax.plot(*np.outer(-toward, [0, reach]), ":", color=_SOURCE)
    _label(ax, "θ = 0", (0, -reach), (0, -1), _SOURCE)
    _angle(ax, (0, 0), 0.6 * reach, ((0, -1), -toward), "θ", _SOURCE)
    ax.plot(*s.sources_cm[:, :2].T, ".", color=_SOURCE, markersize=2)
    turn = 1.12 * s.sources_cm[int(s.view[0]) :, :2][: 2 + len(s.sources_cm) // 8]
    if len(turn) > 1:
        ax.plot(*turn.T, color=_SOURCE)
        _arrow(ax, turn[-2], turn[-1], _SOURCE)
        _label(ax, "θ increases", turn[-1], turn[-1] - turn[-2], _SOURCE)

    ray = s.corners_cm[0, 1, :2] - 0.15 * (last - first)
    if (ray - foot) @ e > 0:
        ax.plot(*np.transpose([source, ray]), color=_RAY)
        _label(ax, "γ > 0", source + 0.75 * (ray - source), e, _RAY)
        _angle(ax, source, 0.85 * reach, (ray - source, toward), "", _RAY)
    _label(ax, "column 0", first, -e, _PANEL)
    _label(ax, f"column {s.n_pixels[1] - 1}", last, e, _PANEL)
    out = foot + 0.07 * reach * toward
    _arrow(ax, out, out + 0.3 * (last - first), _PANEL)

    _offset(ax, "axis_offset_cm", (source - (source @ toward) * toward, np.zeros(2)), -e)
    _offset(ax, "offset_cm", (foot, s.corners_cm.mean((0, 1))[:2]), -toward)
    ax.set(xlabel="x (cm)", ylabel="y (cm)", title="from above: z points toward the viewer")
    ax.margins(0.2, 0.1)


def _from_the_side(ax: Axes, s: Setup) -> None:
    low, high = s.corners_cm[:, 0, 2] + np.array([-0.5, 0.5]) * s.pixel_cm[0]
    source, foot = (np.array([p @ s.toward, p[2]]) for p in (s.source, s.foot))
    first, last = np.array([[foot[0], low], [foot[0], high]])
    depths = np.add.outer(s.toward[0] * s.edges_cm[2], s.toward[1] * s.edges_cm[1])
    front, z, step = depths.min(), s.edges_cm[0], 0.06 * (high - low)
    _fan(ax, source, foot, first, last)
    _box(ax, (front, depths.max()), z)
    _label(ax, "source", source, (0, 1), _SOURCE)
    _label(ax, "central ray", foot * 0.6, (0, -1), _BLACK)
    _arrow(ax, (0, z[0] - step), (0, z[1] + 2 * step), _BLACK)
    _label(ax, "axis, z", (0, z[1] + 2 * step), (0, 1), _BLACK)
    _label(ax, "slice 0", (front, z[0] + step), (-1, 0), _BLACK)
    _label(ax, f"slice {s.n_voxels[0] - 1}", (front, z[1] - step), (-1, 0), _BLACK)
    _label(ax, "row 0", first, (1, 0), _PANEL)
    _label(ax, f"row {s.n_pixels[0] - 1}", last, (1, 0), _PANEL)
    middle = np.array([foot[0], s.corners_cm[..., 2].mean()])
    _offset(ax, "row_offset_cm", (foot, middle), (1, 0))
    for name, end, below in (("axis", 0.0, 2), ("detector", foot[0], 5)):
        ends = np.array([[source[0], end], [low - below * step] * 2])
        ax.plot(*ends, "|-", color=_BLACK, linewidth=0.8)
        text = f"source_to_{name}_cm = {end - source[0]:.4g}"
        _label(ax, text, ends.mean(1), (0, -1), _BLACK)
    ax.set(xlabel="along the central ray, from the axis (cm)", ylabel="z (cm)")
    ax.set_title("from the side: the same view")
    ax.margins(0.1, 0.15)


def _indices(ax: Axes, s: Setup) -> None:
    (bottom, top), (left, right) = s.edges_cm[1:]
    _, row, column = s.n_voxels - 1
    _box(ax, (left, right), (bottom, top))
    corner, size = np.array([left, top]), np.array([right - left, top - bottom])
    start = corner + size * (0.1, -0.1)
    for text, direction in (("image columns", (1, 0)), ("image rows", (0, -1))):
        end = start + 0.25 * size * direction
        _arrow(ax, start, end, _BLACK)
        _label(ax, text, end, (1, 0), _BLACK)
    for text, at, up in (
        ("[k, 0, 0]", (left, top), 1),
        (f"[k, 0, {column}]", (right, top), 1),
        (f"[k, {row}, 0]", (left, bottom), -1),
        (f"[k, {row}, {column}]", (right, bottom), -1),
    ):
        _label(ax, text, at, (0, up), _BLACK)
    ax.plot(0, 0, "o", color=_BLACK, markersize=4)
    _label(ax, "axis", (0, 0), (0, -1), _BLACK)
    ax.set(xlabel="x (cm)", ylabel="y (cm)", title="from above: slice k of the volume")
    ax.margins(0.15)


def _fan(ax: Axes, source: np.ndarray, foot: np.ndarray, *ends: np.ndarray) -> None:
    """Source, panel, the rays between them, and the central ray."""
    ax.fill(*np.transpose([source, *ends]), color=_RAY, alpha=0.12, linewidth=0)
    ax.plot(*np.transpose([source, foot]), "--", color=_BLACK, linewidth=0.8)
    ax.plot(*np.transpose(ends), color=_PANEL, linewidth=3)
    ax.plot(*source, "*", color=_SOURCE, markersize=12)


def _box(ax: Axes, across: Point, up: Point) -> None:
    """Outline of the volume."""
    (left, right), (bottom, top) = across, up
    box = Rectangle((left, bottom), right - left, top - bottom, alpha=0.6)
    box.set(facecolor=_VOLUME, edgecolor=_BLACK)
    ax.add_patch(box)


def _arrow(ax: Axes, start: Point, end: Point, color: str) -> None:
    arrow = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", tuple(end), tuple(start), arrowprops=arrow)


def _label(ax: Axes, text: str, at: Point, direction: Point, color: str) -> None:
    """Text beside a point, placed in this direction from it."""
    x, y = unit(direction)
    label = ax.annotate(text, tuple(at), (7 * x, 7 * y), textcoords="offset points", color=color)
    horizontal = "center" if abs(x) < 0.4 else "left" if x > 0 else "right"
    vertical = "center" if abs(y) < 0.4 else "bottom" if y > 0 else "top"
    label.set(ha=horizontal, va=vertical)


def _angle(
    ax: Axes, at: Point, radius: float, ends: tuple[Point, Point], text: str, color: str
) -> None:
    """Angle from the first direction to the second, counter-clockwise."""
    first, last = (float(np.degrees(np.arctan2(y, x))) for x, y in ends)
    x, y = at
    ax.add_patch(Arc((x, y), 2 * radius, 2 * radius, theta1=first, theta2=last, color=color))
    middle = np.radians(first + (last - first) % 360 / 2)
    direction = np.array([np.cos(middle), np.sin(middle)])
    _label(ax, text, at + radius * direction, direction, color)


def _offset(ax: Axes, name: str, ends: tuple[np.ndarray, np.ndarray], direction: Point) -> None:
    """A named distance, drawn if it is not zero."""
    if np.linalg.norm(ends[1] - ends[0]) > 1e-6:
        ax.plot(*np.transpose(ends), color=_OFFSET, linewidth=3)
        _label(ax, name, np.mean(ends, 0), direction, _OFFSET)
