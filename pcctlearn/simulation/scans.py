"""Scan files simulated from the cases of a data set, by one or several jobs, resumable."""

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
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.grids import VolumeGrid


def scan_source(
    simulator: Mapping[str, Any], datasets: Mapping[str, Any], folder: str | Path
) -> ScanSource:
    """The scan files that ``datasets`` builds, or ``SimulatedScans`` of the cases it builds."""
    built = instantiate(datasets, _convert_="all")
    if isinstance(built, ScanSource):
        return built
    return SimulatedScans(simulator, datasets, folder, built)


class SimulatedScans(ScanSource):
    """One scan file for each case of a data set, simulated when ``make`` is first called.

    The files are ``folder/scans/NAME.h5``. Each records the settings it was made with, so that
    finished scans are reused and scans made with other settings are rejected.

    Args:
        simulator: configuration of a ``ScanSimulator``.
        datasets: configuration of a data set of volumes (``Cases``).
        folder: parent of the folder ``scans``.
        cases: the data set, if it has already been built.
        shard: ``"1/4"``: ``make`` simulates scans 1, 5, 9 …; other jobs simulate the rest.

    Raises:
        ValueError: not a data set of volumes, two equal names, an invalid shard, or scans made with
            other settings.
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
                f"{type(self.cases).__name__} has no volumes to scan: choose datasets=nifti, "
                "datasets=heads, or another one that `python simulate.py --help` lists"
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
    def geometry(self) -> Geometry:
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
        """Simulate the scans of this job's shard that do not exist yet.

        Any number of jobs may share a folder: each locks the scan that it is simulating, and the
        others continue with the next one.
        """
        missing = [index for index in self._mine if not self.paths[index].is_file()]
        scans = self.folder / "scans"
        if missing:
            simulator = self.simulator  # wrong settings raise before anything is written
            with held(self.folder, "folder", wait=True):
                # a report of a smaller set is removed, results of another command are kept
                finished = (self.folder / MARKER).exists()
                set_aside(self.folder, "folder", keep=finished and not is_report(self.folder))
            scans.mkdir(exist_ok=True)
        discard_parts(scans)
        discard_locks(scans)
        if missing:
            with bars("scans", "views of this scan") as (scan_bar, view_bar):

                def make(index: int) -> None:
                    self._require_same()  # other jobs may have written scans since
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
            seed_of(self._settings["seed"], name),  # independent of the other cases
            progress,
            self._recorded,
            case.scanner_to_patient,
            case.materials,
        )
        write_scan(self.paths[index], scan)

    def _require_same(self) -> None:
        for path in (path for path in self.paths if path.is_file()):
            _require_recorded(path, self._recorded)


def is_report(folder: Path) -> bool:
    """Whether the results in a folder are the report of a set of scans."""
    try:
        with h5py.File(folder / "arrays.h5") as file:
            return "spr_by_bin" in file
    except OSError:
        return False


@contextmanager
def bars(*titles: str) -> Iterator[list[Callable[[int, int], None]]]:
    """Progress bars: for each title, a function (done, total) that updates it."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True)) as progress:
        tasks = [progress.add_task(title, total=None) for title in titles]

        def update(task: Any) -> Any:
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield [update(task) for task in tasks]


def _make_once(
    missing: Sequence[int],
    paths: Sequence[Path],
    make: Callable[[int], None],
    progress: Callable[[int], None],
) -> None:
    """Call ``make`` with a scan locked, for every missing scan that no other job has locked.

    Then wait for the scans of other jobs, and make those that they leave unfinished.
    """
    for wait in (False, True):
        left = [index for index in missing if not paths[index].is_file()]
        if wait and left:
            say(f"waiting for {len(left)} scans that other jobs are simulating")
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
    """Indices of the cases in a shard: ``"1/4"`` of six cases gives 1 and 5."""
    try:
        first, n_jobs = map(int, shard.split("/"))
    except ValueError:
        first, n_jobs = -1, 0
    if not 0 <= first < n_jobs:
        raise ValueError(
            f"shard must be JOB/N_JOBS, such as 0/4 to 3/4 for four jobs, got {shard!r}"
        )
    return range(first, n_cases, n_jobs)


def _require_recorded(path: Path, wanted: str) -> None:
    remedy = "delete it to have it simulated again"
    with readable(path, "a scan file", remedy), h5py.File(path) as file:
        found = str(file.attrs.get("config", ""))
    if found == wanted:
        return
    kind = ("the configuration of a scan", remedy)
    old = _flat(parse_yaml(found, f"the attribute config of {path}", *kind))
    new = _flat(parse_yaml(wanted, "this configuration", *kind))
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if keys:
        differ = ", ".join(f"{key} (recorded: {old.get(key, 'null')})" for key in keys[:3])
        raise ValueError(
            f"{path} was made with other settings: {differ}; choose another folder=FOLDER, or "
            "delete the scans in this one"
        )


def _flat(node: Any, name: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested mappings; a key that is null counts as absent."""
    if not isinstance(node, dict):
        return {} if node is None else {name: node}
    parts = (_flat(value, f"{name}.{key}" if name else str(key)) for key, value in node.items())
    return {key: value for part in parts for key, value in part.items()}
