"""Compare finished runs: the jobs of a sweep, or all runs below a folder."""

import logging
import re
import time
from pathlib import Path

import h5py
import numpy as np

from pcctlearn.figures.arrays import as_array, read_arrays, read_names
from pcctlearn.metrics.errors import ErrorTable, Metric
from pcctlearn.runs.finished import Job, by_setting, finished_jobs
from pcctlearn.runs.folder import held, set_aside
from pcctlearn.runs.results import StudyResults, print_table, write_run
from pcctlearn.studies.scatter_table import scatter_table

log = logging.getLogger(__name__)

FOLDER = "comparison"  # beside the jobs
_SETTING = "hydra.sweep.dir"  # key that sets the folder
_IMAGE = re.compile(r"/axial\.vmi_[^/]*_HU$")  # of an evaluation
_MOST_METHODS = 6  # above this number the sweep is treated as a parameter search


def compare(folder: Path) -> Path | None:
    """Compare the finished runs below a folder; return the report, or ``None`` for less than two.

    The numbers of runs that differ only in their seed are averaged. An earlier comparison is
    replaced.
    """
    began = time.perf_counter()
    jobs = finished_jobs(folder)
    if len(jobs) < 2:
        return None
    settings = by_setting(jobs)
    results = _scatter_table(settings) or _means(settings)
    name, out = f"{len(jobs)} runs compared", folder / FOLDER
    listed = "\n".join(f"{job.folder.relative_to(folder)}: {' '.join(_words(job))}" for job in jobs)
    with held(out, _SETTING, wait=True):
        set_aside(out, _SETTING)
        write_run(name, results, out, listed, began)
    print_table(name, results, out, time.perf_counter() - began)
    return out / "report.html"


def _scatter_table(settings: dict[str, list[Job]]) -> StudyResults | None:
    """Table of scatter corrections, if every run is a scatter study on the same test scans."""
    runs = {name: [job.folder for job in jobs] for name, jobs in settings.items()}
    if len(runs) > _MOST_METHODS or not all(
        _judges_scatter(folder) for folders in runs.values() for folder in folders
    ):
        return None
    try:
        return scatter_table(runs)
    except ValueError as error:
        log.warning("%s; their results are averaged instead", error)
        return None


def _means(settings: dict[str, list[Job]]) -> StudyResults:
    """Mean and standard deviation of every number over the jobs of each setting."""
    every = [job.numbers for jobs in settings.values() for job in jobs]
    shared = [name for name in every[0] if all(name in numbers for numbers in every)]
    if not shared:
        raise ValueError("these runs have no result in common: give a folder with runs of one kind")
    table = ErrorTable(
        {
            (Metric.named(name), setting): np.array([job.numbers[name] for job in jobs])
            for name in shared
            for setting, jobs in settings.items()
        }
    )
    numbers = table.means()
    n_jobs = sum(map(len, settings.values()))
    images = _images(settings)
    return StudyResults(
        numbers=numbers,
        arrays={**table.to_arrays("runs"), **images},
        figures=["comparison.numbers", *(["comparison.images"] if images else [])],
        summary=f"{n_jobs} runs of {len(settings)} settings: mean and standard deviation over "
        "runs that differ only in their seed.",
        tables=[table.side_by_side(list(settings), "mean ± standard deviation")],
        tabulated=numbers,
    )


def _images(settings: dict[str, list[Job]]) -> dict[str, np.ndarray]:
    """The first monoenergetic image of the first run of each setting, if all show one slice."""
    if len(settings) > _MOST_METHODS:
        return {}
    found = {}
    for name, (job, *_) in settings.items():
        labels = [label for label in read_names(job.folder) if _IMAGE.search(label)]
        if not labels:
            return {}
        found[name] = (labels[0], read_arrays(job.folder, labels[0])[0])
    if len({(label, image.shape) for label, image in found.values()}) > 1:
        return {}
    images = {f"images/{name}": image for name, (_, image) in found.items()}
    return {"shown": as_array([*found]), **images}


def _judges_scatter(folder: Path) -> bool:
    with h5py.File(folder / "arrays.h5") as file:
        return {"errors", "reference", "materials"} <= file.keys()


def _words(job: Job) -> list[str]:
    return [f"{key}={value}" if value else key for key, value in job.overrides.items()]
