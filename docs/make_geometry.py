"""Draw docs/geometry.png and write docs/geometry.md: every number and message comes from the code.

python docs/make_geometry.py
"""

import sys
import warnings
from collections.abc import Iterable
from dataclasses import replace
from math import pi
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the package need not be installed

from pcctlearn.figures.setup import draw_setup
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.setup import Setup
from pcctlearn.tomography.grids import VolumeGrid

FOLDER = Path(__file__).parent
BEAM = ConeBeam(
    n_views=48,
    n_rows=80,
    n_columns=140,
    pixel_cm=(0.4, 0.35),
    source_to_axis_cm=40.0,
    source_to_detector_cm=65.0,
    arc_rad=4 / 3 * pi,
    offset_cm=2.0,
    row_offset_cm=3.0,
    axis_offset_cm=3.0,
)
GRID = VolumeGrid(n_z=37, n_y=80, n_x=96, voxel_cm=(0.3, 0.25, 0.25))
DRAWN_VIEW = 9
CHANGES: list[dict[str, Any]] = [
    {"n_columns": 60},
    {"source_to_axis_cm": 15.0},
    {"source_to_detector_cm": 30.0},
    {"axis_offset_cm": 50.0},
    {"n_rows": 60},
    {"row_offset_cm": 60.0},
    {"pixel_cm": (0.4, 0.35, 0.3)},
    {"arc_rad": 6.5},
    {"view_angles_rad": (0.0, 0.1, 0.1)},
    {"n_views": 3, "view_angles_rad": (0.0, 0.1, 0.1)},
    {"n_views": 7, "view_angles_rad": (0.0, 0.5, 1.0, 3.0, 3.5, 4.0, 4.5)},
    {"arc_rad": 3.0},
    {"n_columns": 100, "offset_cm": 9.0},
    {"arc_rad": 6.2832, "offset_cm": 40.0},
]

Axes = list[tuple[str, Any]]  # name and positions

PAGE = """\
<!-- written by docs/make_geometry.py: change that, not this -->
# Geometry: axes, signs and angles

![The scanner from above and from the side, and the indices of a slice](geometry.png)

*View {drawn} of the scanner below, drawn from the positions that `ConeBeam` returns. All lengths
are in cm, all angles in rad; this page prints angles in degrees.*

Parallel, fan and cone beam share one frame. `ParallelBeam` and `FanBeam`
([geometry.py](../pcctlearn/tomography/geometry/planar.py)) lie in its plane z = 0; a `ConeBeam`
([cone_geometry.py](../pcctlearn/tomography/geometry/cone.py)) is a fan for each row of its panel.
A geometry describes source and detector. The voxels are a grid of their own
([grids.py](../pcctlearn/tomography/grids.py)): `projector(geometry, grid)`, `fbp(geometry, grid)`.

## Axes, signs, angles

| | |
|---|---|
| x, y, z | right, up, and along the rotation axis towards the reader: right-handed |
| θ | turns the scanner from x to y, counter-clockwise as seen from +z; `angles_rad` |
| columns | run along e = (cos θ, sin θ, 0), rows along z; **row 0 is the lowest** |
| central ray | horizontal, along t = (−sin θ, cos θ, 0); meets the panel at right angles |
| source | −`axis_offset_cm` · e − `source_to_axis_cm` · t: below the axis at θ = 0 |
| panel | `source_to_detector_cm` from the source; u along e, v along z, 0 at the central ray |
| column k | u = (k − (n_columns − 1) / 2) · pixel + `offset_cm` |
| row j | v = (j − (n_rows − 1) / 2) · pixel + `row_offset_cm` |
| γ | tan γ = u / `source_to_detector_cm`: increases with the column, clockwise |
| parallel rays | the ray (θ, γ) of a fan belongs to the parallel view θ − γ |
| `axis_offset_cm` | distance along e from the central ray to the rotation axis |
| parallel beam | measures x cos θ + y sin θ = u |

View k is at θ = `start_rad` + k · `arc_rad` / `n_views`; no view lies at the end of the arc. Views
that are spaced in another way are listed as `view_angles_rad`, in any order and of any turn. The
angular width of such a view, `view_weights_rad`, is half the distance to either neighbour.

**Patients.** Slice 0 is nearest to the feet, row 0 in front, column 0 on the patient's right. x
points to the patient's left, y to the front and z to the head; NIfTI files are written accordingly
(R = −x, A = y, S = z). Left, front and head form a left-handed frame, the mirror image of the
drawing. The formulas above remain valid, but seen from the head θ turns the scanner *clockwise*,
from the patient's left to the front, and at θ = 0 columns run from the patient's right to the left.
For a scanner that turns the other way set `view_angles_rad`, or left and right are exchanged.

## Arrays

| array | shape here | index 0 | last index |
|---|---|---|---|
{arrays}

`voxel_cm` and `center_cm` of a `VolumeGrid` are (z, y, x), and `pixel_cm` of a `ConeBeam` is (row,
column); a single number is used for all axes. Axes before these are batch and material.

## A scanner in numbers

`print(beam)` and `print(grid)` for the picture:

```
{beam}
{grid}
```

Positions (x, y, z) in cm: `beam.sources_cm()[view]` and `beam.pixels_cm()[view, row, column]`.

| view | θ | source | row 0, column 0 | row {last_row}, column {last_column} |
|---|---|---|---|---|
{views}

## Weights in filtered back-projection

`fbp`, which is FDK for a cone beam, weights the rays, filters along detector rows and back-projects
with 1 / depth² ([weights.py](../pcctlearn/tomography/weights.py)).

- Obliquity: D / √(D² + u² + v²) · (1 + δ/R · u/D), with D = `source_to_detector_cm`,
  R = `source_to_axis_cm` and δ = `axis_offset_cm`. In the plane z = 0, with δ = 0, this is cos γ.
- Redundancy measures γ from the ray through the axis, whose own γ is atan(δ/R), here {axis_gamma}.
  From this ray the columns extend from {first_gamma} to {last_gamma}.
- The angular width of a view is half the distance to either neighbour on the circle. A next view
  at more than 2.5 usual steps and more than 5° leaves a gap.
- The ray (θ, γ) has a confidence c between 0 and 1. It is zero in gaps and rises as sin² over the
  30° beside them. For a displaced panel it also falls to zero at the end of the shorter side.
- The weight of a ray is c(θ, γ) / (c(θ, γ) + c(θ + π − 2γ, −γ)), averaged over the angular width of
  its view: the weights of the two rays of a line add to one, and a line that is measured once has
  the weight one.
- A scan that leaves lines of the grid unmeasured is rejected. One arc must cover π + twice the
  larger γ, here {shortest}; this scan has {arc}. A displaced panel that truncates the grid needs a
  full turn.
- Where the grid is projected beyond the panel, rows are extrapolated before they are filtered: by
  the edge value that falls to zero (`truncation="cosine"`, linear), or by water cylinders fitted to
  the edges (`truncation="water"`, not linear; errors of a few HU in water-like objects).
- Iterative reconstruction has no such weights and takes any arc and any panel.

## Errors and warnings

Each row changes the scanner above and shows the message of `fbp`.

| change | message |
|---|---|
{told}
"""


def page() -> str:
    """The whole of geometry.md."""
    gammas = BEAM.gammas_rad - BEAM.axis_gamma_rad
    return PAGE.format(
        drawn=DRAWN_VIEW,
        arrays=_table(_arrays()),
        beam=BEAM,
        grid=GRID,
        last_row=BEAM.n_rows - 1,
        last_column=BEAM.n_columns - 1,
        views=_table(_views((0, DRAWN_VIEW, 18, 36))),
        axis_gamma=_degrees(BEAM.axis_gamma_rad),
        first_gamma=_degrees(gammas[0]),
        last_gamma=_degrees(gammas[-1]),
        shortest=_degrees(pi + 2 * np.abs(gammas).max()),
        arc=_degrees(BEAM.arc_rad),
        told=_table((_call(change), _said(change)) for change in CHANGES),
    )


def _arrays() -> Iterable[tuple[str, ...]]:
    grid = GRID
    first, last = grid.index_to_cm @ [0, 0, 1], grid.index_to_cm @ [grid.n_x - 1, grid.n_y - 1, 1]
    volume: Axes = [("z", grid.slices_cm), ("y", (first[1], last[1])), ("x", (first[0], last[0]))]
    sinogram: Axes = [
        ("θ", np.degrees(BEAM.angles_rad)),
        ("v", BEAM.rows_cm),
        ("u", BEAM.columns_cm),
    ]
    for name, shape, axes in (
        ("volume (z, y, x)", grid.shape, volume),
        ("sinogram (view, row, column)", BEAM.shape, sinogram),
    ):
        ends = (", ".join(f"{axis} = {_number(at[i])}" for axis, at in axes) for i in (0, -1))
        yield name, " × ".join(map(str, shape)), *ends


def _views(views: Iterable[int]) -> Iterable[tuple[str, ...]]:
    pixels, sources = BEAM.pixels_cm(), BEAM.sources_cm()
    for view in views:
        positions = (sources[view], pixels[view, 0, 0], pixels[view, -1, -1])
        named = (f"({', '.join(map(_number, position))})" for position in positions)
        yield str(view), _degrees(BEAM.angles_rad[view]), *named


def _said(change: dict[str, Any]) -> str:
    """Warning or error of ``fbp`` for a geometry with this change."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fbp(replace(BEAM, **change), GRID)
        except ValueError as error:
            return f"error: {error}"
    return f"warning: {caught[0].message}"


def _call(change: dict[str, Any]) -> str:
    return f"`{', '.join(f'{name}={value}' for name, value in change.items())}`"


def _table(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _number(value: float) -> str:
    return f"{round(float(value), 3) + 0.0:.3f}"  # no −0.000


def _degrees(angle_rad: float) -> str:
    return f"{np.degrees(angle_rad):.2f}°"


def main() -> None:
    """Write the page and its picture."""
    (FOLDER / "geometry.md").write_text(page(), encoding="utf-8")
    draw_setup(Setup.of(BEAM, GRID, DRAWN_VIEW)).savefig(FOLDER / "geometry.png")


if __name__ == "__main__":
    main()
