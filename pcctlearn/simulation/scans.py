"""Scan files of a data set's cases, simulated by any number of jobs, continued at any time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
from hydra.utils import instantiate
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pcctlearn.console import console, say
from pcctlearn.files.atomic import discard_parts
from pcctlearn.files.locks import LockedError, discard_locks, locked
from pcctlearn.files.names import safe_stem
from pcctlearn.patients.cases import Cases
from pcctlearn.physics.noise import seed_of
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.reading.damaged import readable
from pcctlearn.reading.yaml_text import parse_yaml
from pcctlearn.runs.folder import MARKER, held, set_aside
from pcctlearn.scans.file import write_scan
from pcctlearn.scans.source import ScanSource
from pcctlearn.simulation.settings import recorded
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.simulation.wider_field import advice_of_settings
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid


def scan_source(
    simulator: Mapping[str, Any], datasets: Mapping[str, Any], folder: str | Path
) -> ScanSource:
    """Scan files, if ``datasets`` builds those; otherwise ``SimulatedScans`` of its cases."""
    built = instantiate(datasets, _convert_="all")
    if isinstance(built, ScanSource):
        return built
    return SimulatedScans(simulator, datasets, folder, built)


class SimulatedScans(ScanSource):
    """One scan file for each case of a data set, simulated when ``make`` is first called.

    The files are ``folder/scans/NAME.h5``. Each records the settings that made it, so that finished
    scans are found again, and scans of other settings are refused.

    Args:
        simulator: configuration of a ``ScanSimulator``.
        datasets: configuration of a data set of volumes (``Cases``).
        folder: that holds the folder ``scans``.
        cases: the data set, if it has been built.
        shard: ``"1/4"``: ``make`` simulates the scans 1, 5, 9 …, and other jobs the rest.

    Raises:
        ValueError: no volumes, two equal names, a wrong shard, or scans of other settings.
    """

    def __init__(
        self,
        simulator: Mapping[str, Any],
        datasets: Mapping[str, Any],
        folder: str | Path,
        cases: Cases | None = None,
        shard: str = "0/1",
    ) -> None:
        self.folder = Path(folder)
        self._settings = simulator
        self.cases = instantiate(datasets, _convert_="all") if cases is None else cases
        if not isinstance(self.cases, Cases) or self.cases.grid_type is not VolumeGrid:
            raise ValueError(
                f"{type(self.cases).__name__} has no volumes to scan: choose datasets=nifti, heads "
                "or another of `python simulate.py --help`"
            )
        self._mine = _shard(shard, len(self.cases))
        stems = [safe_stem(name.replace("/", "_"), f"case {name}") for name in self.cases.names]
        self.paths = [self.folder / "scans" / f"{stem}.h5" for stem in stems]
        if len({stem.casefold() for stem in stems}) < len(stems):  # one file on some systems
            raise ValueError("two cases have the same name: rename one of their files")
        self._recorded = recorded(simulator, datasets)
        self._require_same()

    @cached_property
    def simulator(self) -> ScanSimulator:
        """The simulator, built on first use."""
        return instantiate(self._settings, _convert_="all")

    @property
    def geometry(self) -> ConeBeam:
        """The geometry of all scans."""
        return self.simulator.geometry

    @property
    def grid(self) -> VolumeGrid:
        """The grid of all objects."""
        return self.simulator.grid

    @property
    def model(self) -> SpectralModel:
        """The spectral model of all scans, with nominal thresholds."""
        return self.simulator.model

    def make(self) -> None:
        """Simulate this job's scans that do not exist yet.

        Any number of jobs may work in one folder: a job locks the scan that it is making, and
        others continue with the next.
        """
        missing = [index for index in self._mine if not self.paths[index].is_file()]
        scans = self.folder / "scans"
        if missing:
            simulator = self.simulator  # wrong settings raise before anything is written
            with held(self.folder, "folder", wait=True):
                clear(self.folder)  # a report that is there is of another set
            scans.mkdir(exist_ok=True)
        discard_parts(scans)
        discard_locks(scans)
        if missing:
            with bars("scans", "views of this scan") as (scan_bar, view_bar):

                def make(index: int) -> None:
                    self._require_same()  # other jobs work in this folder
                    self._make(index, simulator, view_bar)

                _make_once(missing, self.paths, make, lambda done: scan_bar(done, len(missing)))
            self._require_same()

    def _make(self, index: int, simulator: ScanSimulator, progress: Callable[..., None]) -> None:
        name = self.cases.names[index]
        with advice_of_settings(simulator.geometry, simulator.grid):
            case = self.cases.placed(index, simulator.grid)
        scan = simulator.scan(
            case.maps,
            name,
            seed_of(self._settings["seed"], name),  # whatever the other cases are
            progress,
            self._recorded,
            case.scanner_to_patient,
            case.materials,
        )
        write_scan(self.paths[index], scan)

    def _require_same(self) -> None:
        for path in (path for path in self.paths if path.is_file()):
            _require_recorded(path, self._recorded)


def clear(folder: Path) -> None:
    """Remove the report of a set of scans from a held folder; move other results aside."""
    set_aside(folder, "folder", keep=(folder / MARKER).exists() and not is_report(folder))


def is_report(folder: Path) -> bool:
    """Whether the results in a folder are the report of a set of scans."""
    try:
        with h5py.File(folder / "arrays.h5") as file:
            return "spr_by_bin" in file
    except OSError:
        return False


@contextmanager
def bars(*titles: str) -> Iterator[tuple[Any, Any]]:
    """A function (done, total) that updates a progress bar, for each title."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True)) as progress:
        tasks = [progress.add_task(title, total=None) for title in titles]

        def update(task: Any) -> Any:
            return lambda done, total: progress.update(task, completed=done, total=total)

        updates = [update(task) for task in tasks]
        yield updates[0], updates[-1]


def _make_once(
    missing: Sequence[int],
    paths: Sequence[Path],
    make: Callable[[int], None],
    progress: Callable[[int], None],
) -> None:
    """Call ``make`` for every missing scan that no other job is making, with its lock held.

    Scans of other jobs are waited for, and made here if those jobs end without finishing them.
    """
    for wait in (False, True):
        left = [index for index in missing if not paths[index].is_file()]
        if wait and left:
            say(f"waiting for {len(left)} scans that other jobs are making")
        for index in left:
            path = paths[index]
            progress(sum(paths[other].is_file() for other in missing))
            try:
                with locked(path.with_name(f".{path.name}.lock"), wait):
                    discard_parts(path.parent, of=path.name, held=True)
                    if not path.is_file():
                        make(index)
            except LockedError:
                pass
    progress(len(missing))


def _shard(shard: str, n_cases: int) -> range:
    """``1/4`` of five cases is 1, which is followed by 5."""
    try:
        first, n_jobs = map(int, shard.split("/"))
    except ValueError:
        first, n_jobs = -1, 0
    if not 0 <= first < n_jobs:
        raise ValueError(f"shard must be JOB/JOBS, from 0/4 to 3/4 for four jobs; got {shard!r}")
    return range(first, n_cases, n_jobs)


def _require_recorded(path: Path, wanted: str) -> None:
    remedy = "delete it, and it is made again"
    with readable(path, "a scan file", remedy), h5py.File(path) as file:
        found = str(file.attrs.get("config", ""))
    if found != wanted:
        called = ("the configuration of a scan", remedy)
        old = _flat(parse_yaml(found, f"the attribute config of {path}", *called))
        new = _flat(parse_yaml(wanted, "this configuration", *called))
        keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        differ = ", ".join(f"{key} ({old.get(key)} there)" for key in keys[:3])
        raise ValueError(
            f"{path} was made with other settings: {differ}; choose another folder=FOLDER, or "
            "delete the scans in this one"
        )


def _flat(node: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {name: node}
    parts = (_flat(value, f"{name}.{key}" if name else str(key)) for key, value in node.items())
    return {key: value for part in parts for key, value in part.items()}
