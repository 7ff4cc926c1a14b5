"""The description of a bench, a YAML file (docs/bench.md)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcctlearn.bench.panel import Panel
from pcctlearn.bench.section import Section
from pcctlearn.bench.stacks import RawLayout
from pcctlearn.physics.attenuation import density_g_cm3
from pcctlearn.reading.yaml_text import read_yaml

_TOP = (
    "name", "tube_kV", "spectrum", "response", "thresholds_keV", "detector", "raw", "frame_s",
    "dark", "air", "plates", "scan", "currents",
)  # fmt: skip
_DETECTOR = (
    "n_rows", "n_columns", "missing_rows", "missing_columns", "counter_bits", "mask",
)  # fmt: skip
_SCAN = ("frames", "log", "frames_per_view", "geometry", "grid", "known_object")
_MOST_CM = 100.0  # of a plate
_MOST_PIXELS = 2**26  # of a panel
_LIST_FRAMES = "list one file for each threshold, or one file with all of them"


@dataclass(frozen=True)
class Exposure:
    """Frames with one thing in the beam.

    Args:
        where: its place in the description, such as ``plates[1]``.
        files: one for each threshold, or one with all thresholds.
        log: a row for each frame, with the reading of the monitor.
        thickness_cm: {material: thickness} in the beam.
        current_mA: of the tube.
    """

    where: str
    files: tuple[Path, ...]
    log: Path | None = None
    thickness_cm: Mapping[str, float] | None = None
    current_mA: float | None = None


@dataclass(frozen=True)
class ScanPart:
    """The frames of a scan, and how they were measured; keys of the classes they will build."""

    exposure: Exposure
    frames_per_view: int
    geometry: Mapping[str, Any]
    grid: Mapping[str, Any] | None
    known_object: tuple[Path, tuple[str, ...]] | None


@dataclass(frozen=True)
class Bench:
    """A bench as its description says; nothing but the description has been read."""

    file: Path
    name: str
    tube_kV: float | None
    spectrum: Path
    response: str
    thresholds_keV: tuple[float, ...]
    panel: Panel
    counter_bits: int | None
    mask: Path | None
    raw: RawLayout
    frame_s: float | None
    dark: Exposure | None
    air: tuple[Exposure, ...]
    plates: tuple[Exposure, ...]
    scan: ScanPart | None
    currents: tuple[Exposure, ...]

    @property
    def exposures(self) -> tuple[Exposure, ...]:
        """All that have frames."""
        single = [self.dark, None if self.scan is None else self.scan.exposure]
        found = [each for each in single if each is not None]
        return (*found, *self.air, *self.plates, *self.currents)


def read_bench(file: Path) -> Bench:
    """Read a description.

    Raises:
        ValueError: the file is no YAML, a key is missing or unknown, or a value is impossible.
        FileNotFoundError: there is no such file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no description {file}: write it as docs/bench.md shows")
    what, remedy = "a description of a bench", "write it as docs/bench.md shows"
    top = Section(file, "", read_yaml(file, what, remedy), _TOP)
    detector = Section(file, "detector", top.node.get("detector"), _DETECTOR)
    panel = _panel(detector)
    frames = _Exposures(top)
    scan = _scan(frames, top) if top.node.get("scan") is not None else None
    bench = Bench(
        file=file,
        name=str(top.node.get("name") or file.stem),
        tube_kV=_optional(top, "tube_kV", "give the voltage of the tube in kV"),
        spectrum=top.path("spectrum", "name a text file of two columns, keV and photons per keV"),
        response=top.texts("response", "name a file, or cdte_monte_carlo or silicon_monte_carlo")[
            0
        ],
        thresholds_keV=top.increasing("thresholds_keV", "list the nominal thresholds in keV"),
        panel=panel,
        counter_bits=_counter_bits(detector),
        mask=detector.path("mask", "") if detector.node.get("mask") is not None else None,
        raw=_raw(top),
        frame_s=_optional(top, "frame_s", "give the counting time of a frame in seconds"),
        dark=frames.one("dark", None) if top.node.get("dark") is not None else None,
        air=frames.many("air", ()),
        plates=frames.many("plates", ("thickness_cm",)),
        scan=scan,
        currents=frames.many("currents", ("current_mA",), with_log=False),
    )
    if not (bench.plates or bench.scan or bench.currents):
        raise top.fault("", "describes no plates, scan or currents: add what was measured")
    if (bench.plates or bench.scan) and not bench.air:
        raise top.fault("air", "is missing: list exposures without an object")
    return bench


class _Exposures:
    """Reads the sections that name frames."""

    def __init__(self, top: Section) -> None:
        self.top = top

    def one(self, where: str, node: Any, more: tuple[str, ...] = (), log: bool = False) -> Exposure:
        """An exposure; ``None`` for a section that is a mapping at the top."""
        node = self.top.node.get(where) if node is None else node
        keys = ("frames", *(("log",) if log else ()), *more)
        section = Section(self.top.file, where, node, keys)
        names = section.texts("frames", _LIST_FRAMES)
        return Exposure(
            where,
            tuple(self.top.file.parent / name for name in names),
            section.path("log", "name a CSV file with a column monitor") if log else None,
            _thickness(section) if "thickness_cm" in more else None,
            section.number("current_mA", "give the tube current in mA")
            if "current_mA" in more
            else None,
        )

    def many(self, key: str, more: tuple[str, ...], with_log: bool = True) -> tuple[Exposure, ...]:
        """A list of exposures."""
        nodes = self.top.node.get(key) or []
        if not isinstance(nodes, list):
            raise self.top.fault(key, "must be a list of exposures: begin each with a hyphen")
        return tuple(
            self.one(f"{key}[{i}]", node or {}, more, with_log) for i, node in enumerate(nodes)
        )


def _scan(frames: _Exposures, top: Section) -> ScanPart:
    section = Section(top.file, "scan", top.node["scan"], _SCAN)
    geometry = section.value("geometry", "give beam, pixel_cm and the distances (docs/bench.md)")
    grid, known = section.node.get("grid"), section.node.get("known_object")
    for key, node in (("geometry", geometry), ("grid", grid)):
        if node is not None and not isinstance(node, dict):
            raise section.fault(key, "must have keys of its own, such as voxel_cm: indent them")
    held = {key: section.node[key] for key in ("frames", "log") if key in section.node}
    if known is not None:
        part = Section(top.file, "scan.known_object", known, ("file", "materials"))
        known = (
            part.path("file", "name an .npz file with line_integrals and maps"),
            part.texts("materials", "list the materials of its first axis"),
        )
    per_view = (
        section.whole("frames_per_view", "give the frames of a view")
        if "frames_per_view" in section.node
        else 1
    )
    return ScanPart(frames.one("scan", held, log=True), per_view, geometry, grid, known)


def _panel(detector: Section) -> Panel:
    n_rows = detector.whole("n_rows", "give the rows of a raw frame")
    n_columns = detector.whole("n_columns", "give the columns of a raw frame")
    panel = Panel(
        n_rows,
        n_columns,
        _missing(detector, "missing_rows", n_rows),
        _missing(detector, "missing_columns", n_columns),
    )
    if (n_pixels := math.prod(panel.shape)) > _MOST_PIXELS:
        raise detector.fault(
            "",
            f"describes {n_pixels} pixels with those in gaps, at most {_MOST_PIXELS} are possible: "
            "correct n_rows, n_columns, missing_rows or missing_columns",
        )
    return panel


def _missing(detector: Section, key: str, n: int) -> dict[int, int]:
    gaps = detector.node.get(key) or {}
    remedy = f"write {{{n // 2}: 3}} if 3 are missing after the first {n // 2}"
    if not isinstance(gaps, dict) or not all(
        isinstance(v, int) and v > 0 and not isinstance(v, bool) for v in (*gaps, *gaps.values())
    ):
        raise detector.fault(key, f"must be pairs of whole numbers, got {gaps!r}: {remedy}")
    for after in gaps:
        if after >= n:
            raise detector.fault(
                key,
                f"has a gap after {after}, but a raw frame has {n}, and gaps lie between modules: "
                f"{remedy}",
            )
    return dict(gaps)


def _counter_bits(detector: Section) -> int | None:
    if detector.node.get("counter_bits") is None:
        return None
    bits = detector.whole("counter_bits", "give the depth of the counters, such as 16")
    if bits > 32:
        raise detector.fault("counter_bits", f"must be 32 at most, got {bits}: correct it")
    return bits


def _raw(top: Section) -> RawLayout:
    if top.node.get("raw") is None:
        return RawLayout()
    section = Section(top.file, "raw", top.node["raw"], ("dtype", "header_bytes"))
    dtype = section.texts("dtype", "write uint16 or uint32")[0]
    header = (
        section.whole("header_bytes", "count the bytes before the first frame", 0)
        if "header_bytes" in section.node
        else 0
    )
    try:
        return RawLayout(dtype, header)
    except (TypeError, ValueError) as error:
        raise section.fault("dtype", str(error)) from None


def _thickness(section: Section) -> dict[str, float]:
    remedy = "write {aluminium: 0.5} for 5 mm of aluminium"
    plates = section.value("thickness_cm", remedy)
    if not isinstance(plates, dict) or not plates:
        raise section.fault("thickness_cm", f"must name materials, got {plates!r}: {remedy}")
    part = Section(section.file, section.name("thickness_cm"), plates, tuple(plates))
    for material in plates:
        if part.number(material, remedy) > _MOST_CM:
            raise part.fault(
                str(material),
                f"must be {_MOST_CM:g} cm at most, got {plates[material]:g}: {remedy}",
            )
        try:
            density_g_cm3(material)
        except ValueError as error:
            raise part.fault(str(material), f"cannot be used: {error}") from None
    return {str(material): float(cm) for material, cm in plates.items()}


def _optional(section: Section, key: str, remedy: str) -> float | None:
    return section.number(key, remedy) if section.node.get(key) is not None else None
