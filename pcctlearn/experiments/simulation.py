"""Make a data set: every case one scan file, in any number of jobs, to be continued at any time."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pcctlearn.command.console import console, say
from pcctlearn.command.threads import set_threads
from pcctlearn.datasets.scan_file import read_scan, write_scan
from pcctlearn.datasets.simulated import mean_spr
from pcctlearn.experiments.config import check_nodes
from pcctlearn.experiments.results import StudyResults, print_table, write_run
from pcctlearn.experiments.run_folder import MARKER, held, set_aside
from pcctlearn.experiments.wider_field import advice_of_settings
from pcctlearn.figures import simulated_scans
from pcctlearn.files import discard_parts, safe_stem
from pcctlearn.locks import LockedError, discard_locks, locked
from pcctlearn.montecarlo.tally import relative_noise
from pcctlearn.reading.damaged import readable
from pcctlearn.reading.text import parse_yaml

_MOST_LISTED = 12  # other scans
_RECORDED = ("scan", "datasets")  # what decides what is in a scan
_NOT_OF_A_SCAN = (("datasets", "n_cases"), ("datasets", "limit"), ("datasets", "cache"))


def simulate(config: DictConfig) -> None:
    """The scans that ``config.datasets`` names, or the detector response ``config.response``."""
    check_nodes(config, folder=str, share=str, response_folder=str)
    set_threads(config.n_threads)
    if config.response is None:
        simulate_scans(config)
    else:
        simulate_response(config)


def simulate_response(config: DictConfig) -> None:
    """Follow photons into a detector, and write down what it registers."""
    simulation = instantiate(config.response, _convert_="all")
    folder = Path(config.response_folder)
    with held(folder, "response_folder"):
        with _bars(simulation.name) as (bar, _):
            simulation.run(bar)
        before = set(folder.iterdir())
        for path in simulation.write(folder):
            verb = "replaced" if path in before else "wrote"
            say(f"{verb} {path}")


def simulate_scans(config: DictConfig) -> None:
    """This job's share of the scans; a report once all of them are there."""
    began = time.perf_counter()
    plan = plan_scans(config, Path(config.folder), config.share)
    make_scans(plan)
    paths = plan.paths
    if all(path.is_file() for path in paths):
        _report(config, paths, began)
    else:
        n_there = sum(path.is_file() for path in paths)
        say(f"{n_there} of {len(paths)} scans are there; other jobs make the others")


@dataclass(frozen=True)
class ScanPlan:
    """The scans of all cases of a data set: their files, and what this job makes of them."""

    config: DictConfig
    folder: Path
    cases: Any
    paths: list[Path]
    recorded: str
    mine: range

    def missing(self) -> list[int]:
        """Which of this job's scans are not there yet."""
        return [index for index in self.mine if not self.paths[index].is_file()]


def plan_scans(config: DictConfig, folder: Path, share: str = "0/1") -> ScanPlan:
    """Check cases, names and finished scans, without simulating or writing anything.

    Raises:
        ValueError: there are no volumes, two names are equal, or the folder has scans of other
        settings.
    """
    cases = instantiate(config.datasets, _convert_="all")
    if not hasattr(cases, "names"):
        raise ValueError(
            f"{type(cases).__name__} is one slice, and no volumes to scan: choose datasets=nifti, "
            "heads or another of `python simulate.py --help`"
        )
    mine = _share(share, len(cases))
    stems = [safe_stem(name.replace("/", "_"), f"case {name}") for name in cases.names]
    paths = [folder / "scans" / f"{stem}.h5" for stem in stems]
    if len({stem.casefold() for stem in stems}) < len(stems):  # one file on some systems
        raise ValueError("two cases have the same name: rename one of their files")
    recorded = _recorded(config)
    _require_same(paths, recorded)
    return ScanPlan(config, folder, cases, paths, recorded, mine)


def make_scans(plan: ScanPlan) -> None:
    """Simulate the missing scans of this job.

    Any number of jobs may work in one folder: each scan is locked by the job that makes it, and
    other jobs continue with the next.
    """
    config, folder, cases = plan.config, plan.folder, plan.cases
    paths, recorded = plan.paths, plan.recorded
    missing = plan.missing()
    if missing:
        simulator = instantiate(config.scan, _convert_="all")
        with held(folder, "folder", wait=True):
            _clear(folder)  # the report is of another set
        (folder / "scans").mkdir(exist_ok=True)
    discard_parts(folder / "scans")
    discard_locks(folder / "scans")
    if missing:
        with _bars("scans", "views of this scan") as (scans, views):

            def make(index: int) -> None:
                _require_same(paths, recorded)  # other jobs work in this folder
                seed = np.random.SeedSequence([config.scan.seed, _number(cases.names[index])])
                with advice_of_settings(simulator.geometry):
                    case = cases.placed(index, simulator.geometry.volume)
                scan = simulator.scan(
                    case.maps,
                    cases.names[index],
                    int(seed.generate_state(1, np.uint64)[0] >> 1),
                    views,
                    recorded,
                    case.scanner_to_patient,
                )
                write_scan(paths[index], scan)

            _make_once(missing, paths, make, lambda done: scans(done, len(missing)))
        _require_same(paths, recorded)


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


def scans_to_learn_from(config: DictConfig) -> ScanPlan:
    """The scans that a study learns from, made on first use: a folder for each way to make them."""
    choice = HydraConfig.get().runtime.choices["datasets"]
    digest = hashlib.sha256(_recorded(config).encode()).hexdigest()[:8]
    return plan_scans(config, Path(config.paths.generated) / f"{choice}-{digest}")


def _report(config: DictConfig, paths: list[Path], began: float) -> None:
    folder, results = Path(config.folder), _results(paths)
    name = f"simulated scans: {HydraConfig.get().runtime.choices['datasets']}"
    with held(folder, "folder", wait=True):
        _clear(folder)
        write_run(name, results, folder, OmegaConf.to_yaml(config, resolve=True), began)
    print_table(name, results, folder, time.perf_counter() - began)
    if others := set((folder / "scans").glob("[!.]*.h5")) - set(paths):
        say(
            f"{len(others)} other scans in {folder / 'scans'} are not of this set: "
            + ", ".join(sorted(path.name for path in others)[:_MOST_LISTED])
        )


def _clear(folder: Path) -> None:
    """Remove the report of an earlier set of scans; move results of another command aside."""
    try:
        with h5py.File(folder / "arrays.h5") as file:
            is_report = "spr_by_bin" in file
    except OSError:
        is_report = False
    set_aside(folder, "folder", keep=(folder / MARKER).exists() and not is_report)


def _results(paths: list[Path]) -> StudyResults:
    wanted = ("primary", "scatter", "scatter_standard_error", "line_integrals")
    spr, by_bin, noise, factors = [], [], [], []
    for path in paths:
        scan = read_scan(path, wanted)
        primary, scatter = scan.at("primary"), scan.at("scatter")
        line_integrals = scan.at("line_integrals")
        spr.append(mean_spr(primary, scatter, line_integrals))
        by_bin.append(
            [
                mean_spr(primary[b, None], scatter[b, None], line_integrals)
                for b in range(len(primary))
            ]
        )
        views = zip(
            scatter.movedim(1, 0).numpy(),
            scan.at("scatter_standard_error").movedim(1, 0).numpy(),
            strict=True,
        )
        if scatter.any():
            noise.append(max(relative_noise(*view).max() for view in views))
        factors.append(scan.grid_transmission or 0.0)
    numbers = {
        "n_scans": float(len(paths)),
        "spr_mean": float(np.mean(spr)),
        "spr_least": min(spr),
        "spr_most": max(spr),
        "grid_transmission_mean": float(np.mean(factors)),
    }
    for number, value in enumerate(np.mean(by_bin, 0), 1):
        numbers[f"spr_bin_{number}_mean"] = float(value)
    if noise:
        numbers["scatter_relative_error_most"] = float(max(noise))
    return StudyResults(
        numbers=numbers,
        arrays={"spr": np.array(spr), "spr_by_bin": np.array(by_bin)},
        figures={
            "primary_and_scatter": partial(simulated_scans.primary_and_scatter, scans=paths),
            "cases": partial(simulated_scans.cases, scans=paths),
        },
        captions={
            "primary_and_scatter": "The first scan, two of its views: primary and scattered counts "
            "as a fraction of air, and their ratio (SPR), in every bin.",
            "cases": "What was scanned: slices through the middle at 60 keV, in HU.",
        },
        summary=f"{len(paths)} scans in {paths[0].parent}: scatter over primary "
        f"{100 * numbers['spr_mean']:.3g} % (simulated scatter times "
        f"{numbers['grid_transmission_mean']:.3g}).",
    )


def _share(share: str, n_cases: int) -> range:
    """``1/4`` of five cases is 1, which is followed by 5."""
    try:
        first, n_jobs = map(int, share.split("/"))
    except ValueError:
        first, n_jobs = -1, 0
    if not 0 <= first < n_jobs:
        raise ValueError(f"share must be JOB/JOBS, from 0/4 to 3/4 for four jobs; got {share!r}")
    return range(first, n_cases, n_jobs)


def _number(name: str) -> int:
    """A number for each name: a case keeps its noise whatever the others are."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _recorded(config: DictConfig) -> str:
    """What made a scan, in words that are the same wherever the project lies."""
    kept: Any = {key: OmegaConf.to_container(config[key], resolve=True) for key in _RECORDED}
    for group, key in _NOT_OF_A_SCAN:
        kept[group].pop(key, None)
    text = OmegaConf.to_yaml(OmegaConf.create(kept))
    return text.replace(str(config.paths.root), "${paths.root}")


def _require_same(paths: Sequence[Path], recorded: str) -> None:
    for path in (path for path in paths if path.is_file()):
        _require_recorded(path, recorded)


def _require_recorded(path: Path, recorded: str) -> None:
    remedy = "delete it, and it is made again"
    with readable(path, "a scan file", remedy), h5py.File(path) as file:
        found = str(file.attrs.get("config", ""))
    if found != recorded:
        called = ("the configuration of a scan", remedy)
        old = _flat(parse_yaml(found, f"the attribute config of {path}", *called))
        new = _flat(parse_yaml(recorded, "this configuration", *called))
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


@contextmanager
def _bars(*titles: str) -> Iterator[tuple[Any, Any]]:
    """A function (done, total) that updates a progress bar, for each title."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True)) as progress:
        tasks = [progress.add_task(title, total=None) for title in titles]

        def update(task: Any) -> Any:
            return lambda done, total: progress.update(task, completed=done, total=total)

        updates = [update(task) for task in tasks]
        yield updates[0], updates[-1]
