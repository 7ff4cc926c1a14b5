"""A scan file from the frames of a bench."""

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.bench.description import Bench, ScanPart
from pcctlearn.bench.flags import Flags
from pcctlearn.bench.scanner import Scanner
from pcctlearn.bench.sums import Dark, Reader, Summed
from pcctlearn.physics.thresholds import bins_from_above
from pcctlearn.reading.arrays import read_npz
from pcctlearn.scans.counted import to_bins
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scans.schema import BEAMS
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.grids import VolumeGrid

_LEAST_ARC_DEG = 7.0  # a turn in radians is less
_MOST_SPREAD = 1.5  # of the angles of a view, over the step from view to view
_FROM_FRAMES = ("n_views", "n_rows", "n_columns", "view_angles_rad")


class ScanFrames:
    """The frames of a scan, added for each view.

    Counts stay counts: the readings of the monitor become the exposure of each view. Geometry,
    grid and known object are checked before any frame is read.

    Args:
        bench: the description.
        part: its scan.
        reader: of the frames.

    Raises:
        ValueError: frames, log, geometry, grid or known object do not fit together.
    """

    def __init__(self, bench: Bench, part: ScanPart, reader: Reader) -> None:
        self.bench, self.part = bench, part
        n_frames, per_view = reader.frames(part.exposure).n_frames, part.frames_per_view
        if n_frames % per_view:
            raise ValueError(
                f"{bench.file}: scan has {n_frames} frames, no multiple of frames_per_view: "
                f"{per_view}: correct it, or leave the last frames out"
            )
        readings, angle_deg = reader.log(part.exposure, n_frames)
        self.monitor = readings.reshape(-1, per_view).sum(1)
        angles_rad = None if angle_deg is None else self._angles(angle_deg.reshape(-1, per_view))
        self.geometry = self._geometry(angles_rad)
        self.grid, self.known = self._grid(), self._known()
        shape = (len(bench.thresholds_keV), len(self.monitor), *bench.panel.raw_shape)
        self.above = np.empty(shape, np.float32)
        saturated = np.zeros(shape[2:], bool)
        total = np.zeros((shape[0], *shape[2:]), np.int64)
        for first, views, full in reader.views(part.exposure, per_view):
            self.above[:, first : first + len(views)] = views.swapaxes(0, 1)
            total += views.sum(0)
            saturated |= full
        self.total = Summed(total, n_frames, float(readings.sum()), saturated)
        reader.require_counters(part.exposure, self.total)

    def record(self, scanner: Scanner, air: Summed, dark: Dark, flags: Flags) -> ScanRecord:
        """The scan, with dead pixels NaN.

        The air is that of a view of mean exposure: its net counts, scaled by the readings.
        """
        bench = self.bench
        dead = torch.from_numpy(flags.dead())
        mean = float(self.monitor.mean())
        open_beam = dark.subtracted(air)[0] * (mean / air.monitor)
        air_bins = bins_from_above(torch.from_numpy(open_beam), 0).clamp(min=0).float()
        on_panel = [
            torch.from_numpy(bench.panel.spread(values.numpy(), np.nan)).masked_fill(dead, np.nan)
            for values in (self._bins(dark), air_bins)
        ]
        scale = float(on_panel[1].sum(0).nanmedian() / scanner.model.air().sum())
        spectrum = scanner.spectrum
        line_integrals, maps, materials = self.known
        return ScanRecord(
            name=bench.name,
            geometry=self.geometry,
            grid=self.grid,
            thresholds_keV=scanner.model.thresholds.edges_keV.detach(),
            air=on_panel[1],
            counts=on_panel[0],
            exposure=torch.from_numpy(self.monitor / mean),
            line_integrals=line_integrals,
            maps=maps,
            maps_grid=None if maps is None else self.grid,
            materials=materials,
            spectrum=spectrum._replace(fluence=spectrum.fluence * scale),
            response=scanner.response,
            view_s=None if bench.frame_s is None else bench.frame_s * self.part.frames_per_view,
            software="pcctlearn",
        )

    def _bins(self, dark: Dark) -> Float[Tensor, "bin view raw_row raw_column"]:
        """Net counts in bins; noise below zero is zero, counts that rise with the threshold NaN."""
        per_view = torch.from_numpy(dark.per_frame * self.part.frames_per_view)
        dark_bins = bins_from_above(per_view, 0).float()[:, None]
        bins = to_bins(torch.from_numpy(self.above))
        return (bins - dark_bins).clamp(min=0) if dark_bins.any() else bins

    def _angles(self, frames_deg: Float[np.ndarray, "view frame"]) -> Float[np.ndarray, "view"]:
        """Angles of the middle of each view, in rad, on a continuous rotation.

        Raises:
            ValueError: they are in rad, or frames of a view are further apart than views are.
        """
        where = f"{self.bench.file}: scan.log: {self.part.exposure.log}"
        if len(frames_deg) > 1 and np.ptp(frames_deg) < _LEAST_ARC_DEG:
            raise ValueError(
                f"{where}: angle_deg covers {np.ptp(frames_deg):.4g} in all: write angles in "
                "degrees, not in radians"
            )
        turned = np.unwrap(np.radians(frames_deg.ravel())).reshape(frames_deg.shape)
        spread, middle = np.ptp(turned, 1), turned.mean(1)
        if len(middle) > 1:
            step = float(np.median(np.abs(np.diff(middle))))
            if (far := spread > _MOST_SPREAD * step + 1e-6).any():
                view = int(far.argmax())
                raise ValueError(
                    f"{where}: angle_deg differs by {np.degrees(spread[view]):.4g} degrees between "
                    f"the frames of view {view}, and by {np.degrees(step):.4g} from view to view: "
                    "correct angle_deg or scan.frames_per_view"
                )
        return np.remainder(middle, 2 * np.pi)

    def _geometry(self, angles_rad: np.ndarray | None) -> Geometry:
        bench, part = self.bench, self.part
        given = dict(part.geometry)
        where = f"{bench.file}: scan.geometry"
        kind = BEAMS.get(str(given.pop("beam", "")))
        if kind is None:
            raise ValueError(f"{where}.beam must be one of {', '.join(BEAMS)}: correct it")
        known = [field.name for field in fields(kind) if field.name not in _FROM_FRAMES]
        for key in given:
            if key not in known:
                raise ValueError(f"{where}.{key} is unknown: accepted: beam, {', '.join(known)}")
        _require_numbers(where, given)
        n_rows, n_columns = bench.panel.shape
        if angles_rad is not None:
            if "arc_rad" in given:
                raise ValueError(
                    f"{where}.arc_rad and the angles of {part.exposure.log} both say where the "
                    "views are: leave arc_rad out"
                )
            given["view_angles_rad"] = angles_rad.tolist()
        elif "arc_rad" not in given:
            raise ValueError(
                f"{bench.file}: scan.log: {part.exposure.log} has no column angle_deg, and "
                "scan.geometry no arc_rad: name the column of the angles so, or write arc_rad: "
                "6.2832 for equal steps over a full turn"
            )
        counted = {"n_views": len(self.monitor), "n_columns": n_columns}
        if kind is BEAMS["cone"]:
            counted["n_rows"] = n_rows
        elif n_rows != 1:
            raise ValueError(
                f"{where}.beam: a {part.geometry['beam']} beam has one row of pixels, and the "
                f"detector {n_rows}: use beam: cone"
            )
        try:
            return kind(**counted, **given)
        except (TypeError, ValueError) as error:
            words = str(error).replace(f"{kind.__name__}.__init__() ", "")
            raise ValueError(f"{where}: {words}: correct it (docs/geometry.md)") from None

    def _grid(self) -> VolumeGrid:
        if self.part.grid is None:
            return self.geometry.default_grid()
        where = f"{self.bench.file}: scan.grid"
        _require_numbers(where, self.part.grid)
        try:
            grid = VolumeGrid(**self.part.grid)
            self.geometry.require_grid(grid)
        except (TypeError, ValueError) as error:
            words = str(error).replace("VolumeGrid.__init__() ", "")
            raise ValueError(f"{where}: {words}: give n_z, n_y, n_x and voxel_cm") from None
        return grid

    def _known(self) -> tuple[Tensor | None, Tensor | None, tuple[str, ...]]:
        """Line integrals and maps of a known object, for the errors that evaluate.py reports."""
        if self.part.known_object is None:
            return None, None, ()
        path, materials = self.part.known_object
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.bench.file}: scan.known_object.file: there is no file {path}: correct its "
                "name, or leave known_object out"
            )
        names = ("line_integrals", "maps")
        arrays = read_npz(path, names, "a known object", f"save {' and '.join(names)} in it")
        known = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in names}
        wanted = (len(materials), self.geometry.n_views, *self.bench.panel.shape)
        if (found := tuple(known["line_integrals"].shape)) != wanted:
            raise ValueError(
                f"{self.bench.file}: scan.known_object: {path}: line_integrals have the shape "
                f"{found}, expected {wanted} for the axes material view row column, gaps included: "
                "compute them for all pixels of the panel"
            )
        return known["line_integrals"], known["maps"], materials


def _require_numbers(where: str, node: Mapping[str, object]) -> None:
    """Raise ValueError for a value that is neither a number nor a list of numbers."""
    for key, value in node.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"{where}.{key} must be a number, got {value!r}: correct it")
