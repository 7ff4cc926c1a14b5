"""Trained scatter corrections, judged once on scans that none of them has seen."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.progress import track

from pcctlearn.chain import Chain
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.evaluation.judge import Judgement, judge
from pcctlearn.metrics.errors import CORRECTED, NOISE_ALONE, UNCORRECTED, ErrorTable
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.runs.context import Context
from pcctlearn.runs.finished import finished_jobs
from pcctlearn.runs.results import StudyResults
from pcctlearn.scans.data_set import usable_scans
from pcctlearn.scans.source import ScanSource
from pcctlearn.scatter.base import require_cone
from pcctlearn.scatter.checkpoint import SavedCorrection
from pcctlearn.studies.published import published_shares
from pcctlearn.studies.scatter_table import compared_corrections
from pcctlearn.tomography.fbp import fbp

_CHECKPOINT = Path("checkpoints") / "best.ckpt"


class ScatterJudgement:
    """Errors of the corrections of finished scatter studies, on scans of their own.

    The scans may have another number of views and another arc than those of the training; the
    detector must be the same. Every correction meets the same counts and the same reference, the
    primary counts, passed through the same chain.

    Args:
        runs: {method: folder with its finished runs, one for each seed}; the first method is
            compared with each of the others.
        scans: scans with known primary and scatter, of objects that no run was trained on.
        decomposition: constructor of the decomposition layer for a model.
        vmi_keV: energy of the monoenergetic images.
        filter, truncation: settings of the reconstruction, as in ``fbp``.
        with_noise: compute errors of noisy counts as well.
        pictured: methods in the pictures; by default all.
    """

    def __init__(
        self,
        runs: Mapping[str, str] | None,
        scans: ScanSource,
        decomposition: Callable[..., Decomposition],
        vmi_keV: float = 60.0,
        filter: str = "ramp",
        truncation: str = "water",
        with_noise: bool = True,
        pictured: Sequence[str] | None = None,
    ) -> None:
        if not runs:
            raise ValueError(
                "study.runs names no runs: give the folder of each method, such as "
                "'study.runs={direct: outputs/direct, images: outputs/images}'"
            )
        if unknown := set(pictured or ()) - runs.keys():
            raise ValueError(
                f"study.pictured names {', '.join(sorted(unknown))}, which study.runs does not: "
                f"use study.pictured=[{','.join(runs)}]"
            )
        self.checkpoints = {method: _checkpoints(method, Path(runs[method])) for method in runs}
        self.source, self.model = scans, scans.model
        self.geometry = require_cone(scans.geometry)
        self.with_noise, self.pictured = with_noise, list(pictured or runs)
        self.chain = Chain(
            decomposition(self.model),
            fbp(self.geometry, scans.grid, filter, truncation),
            MonoenergeticImages(self.model.materials, [vmi_keV]),
        )
        self.model.thresholds.requires_grad_(False)

    def run(self, context: Context) -> StudyResults:
        """Make the scans, correct each with every checkpoint, and compare the errors."""
        self.source.make()
        air = self.model.air().detach().float()
        corrections = {
            _name(method, number): SavedCorrection(path)(self.geometry, self.model)
            for method, paths in self.checkpoints.items()
            for number, path in enumerate(paths)
        }
        first = {_name(method, 0): method for method in self.pictured}
        judgement = judge(
            self.chain,
            usable_scans(track(self.source.paths, "test scans"), air),
            0 if self.with_noise else None,
            corrections,
            others_with_noise=True,
            shown=[UNCORRECTED, *first],
        )
        found = {
            method: [_errors_of(judgement, _name(method, n)) for n in range(len(paths))]
            for method, paths in self.checkpoints.items()
        }
        shown = {}
        for name, values in judgement.arrays().items():
            method, _, what = name.rpartition("/")
            if not name.startswith("errors/"):
                shown[f"{first.get(method, method)}/{what}" if method else what] = values
        results = compared_corrections(found, shown, next(iter(found)), self.pictured)
        results.tables = [*results.tables, published_shares()]
        return results


def _checkpoints(method: str, folder: Path) -> list[Path]:
    runs = finished_jobs(folder) if folder.is_dir() else []
    paths = [run.folder / _CHECKPOINT for run in runs]
    if missing := [path for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"no checkpoint at {missing[0]}: run that study again")
    if not paths:
        raise FileNotFoundError(
            f"no finished run of {method} below {folder}: train it with python train.py "
            f"hydra.run.dir={folder}/1"
        )
    return paths


def _name(method: str, number: int) -> str:
    return f"{method} #{number + 1}"


def _errors_of(judgement: Judgement, name: str) -> ErrorTable:
    """The errors of one correction as those of a study: uncorrected, corrected, noise alone."""
    names = {UNCORRECTED: UNCORRECTED, name: CORRECTED, NOISE_ALONE: NOISE_ALONE}
    table = ErrorTable()
    for (metric, method), values in judgement.errors.values.items():
        if method in names:
            table.values[metric, names[method]] = values
    return table
