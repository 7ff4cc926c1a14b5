"""Finished runs below a folder, and those of them that differ only in their seed."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pcctlearn.figures.arrays import read_numbers
from pcctlearn.files.names import is_hidden
from pcctlearn.reading.damaged import library_errors
from pcctlearn.runs.folder import MARKER, is_earlier
from pcctlearn.runs.results import recorded_overrides

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A finished run: its overrides, {key: value}, and its results."""

    folder: Path
    overrides: dict[str, str]
    numbers: dict[str, float]


def finished_jobs(folder: Path) -> list[Job]:
    """Finished runs below a folder, sorted by the names of their folders.

    Outputs that a later run has moved aside and hidden folders are left out.
    """
    jobs = []
    for marker in folder.rglob(MARKER):
        run = marker.parent
        if is_earlier(run, folder) or is_hidden(run, folder):
            continue
        try:
            overrides, numbers = recorded_overrides(run), read_numbers(run)
        except library_errors() as error:
            log.warning("%s is left out: its results cannot be read (%s)", run, error)
            continue
        if overrides is not None:
            words = [word.lstrip("+").partition("=") for word in overrides]
            jobs.append(Job(run, {key: value for key, _, value in words}, numbers))
    return sorted(jobs, key=lambda job: _natural(job.folder.name))


def by_setting(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Group jobs that differ only in their seed; groups are named by the overrides that differ."""
    keys = {key for job in jobs for key in job.overrides if not key.startswith("hydra.")} - {"seed"}
    differing = [key for key in sorted(keys) if len({job.overrides.get(key) for job in jobs}) > 1]
    groups: dict[tuple[str | None, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.overrides.get(key) for key in differing), []).append(job)
    styles: list[tuple[Callable[[str], str], bool]] = [(_short, False), (str, False), (str, True)]
    for text_of, with_keys in styles:  # until all names differ
        names = [_name(differing, values, text_of, with_keys) for values in groups]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, groups.values(), strict=True))


def _name(
    keys: Sequence[str],
    values: Sequence[str | None],
    text_of: Callable[[str], str],
    with_keys: bool,
) -> str:
    """Name of a group; overrides without a value, such as ``~key``, are named by their key."""
    given = [(k, text_of(v)) for k, v in zip(keys, values, strict=True) if v is not None]
    alone = len(keys) == 1 and not with_keys
    words = [(value or key) if alone or not value else f"{key}={value}" for key, value in given]
    return (" ".join(words) or "default").replace("/", ":")  # no path within arrays.h5


def _short(word: str) -> str:
    try:
        return f"{float(word):.3g}"
    except ValueError:
        return word


def _natural(name: str) -> tuple[int, str]:
    first = name.partition("_")[0]
    return (int(first) if first.isdigit() else -1, name)
