"""The job of evaluate.py: correct, decompose and reconstruct scan files, and report."""

import logging
from collections.abc import Callable

import numpy as np
from rich.progress import track
from torch import Tensor

from pcctlearn.calibration.dead_time_file import read_dead_times
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.pixel_model_file import read_pixel_model
from pcctlearn.console import console
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.evaluation.evaluator import EvaluatedScan, ScanEvaluator
from pcctlearn.evaluation.folder import digest_of, finished_scans, write_scan_folder
from pcctlearn.evaluation.scan_chain import ScanChains
from pcctlearn.files.names import safe_stem
from pcctlearn.metrics.errors import CORRECTED, ErrorTable
from pcctlearn.physics.response.presets import pairs_of
from pcctlearn.runs.context import Context
from pcctlearn.runs.folder import MARKER, OUTPUTS
from pcctlearn.runs.results import StudyResults
from pcctlearn.scans.folder import scan_files
from pcctlearn.scatter.checkpoint import CorrectionBuilder
from pcctlearn.tomography.grids import VolumeGrid, changed_grid
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

_RESERVED = (*OUTPUTS, ".lock")  # names that a scan may not have
_MOST_DRAWN = 10  # scans with figures
_TITLE = "errors from the true object: mean ± standard deviation over the scans"
_MOST_LISTED = 12  # dead pixels in the report


class Evaluation:
    """Correct, decompose and reconstruct scan files, one after the other.

    Unusable scans are skipped and listed at the end. Each scan file and the checkpoint are read
    once.

    Args:
        scans: a scan file, or a folder of them.
        scatter: builds the scatter correction for a scanner.
        decomposition: constructor of the decomposition layer for a model.
        vmi_keV: energies of the monoenergetic images; errors are computed at the first.
        materials: basis materials; by default those of each file's truth, else water and calcium.
        filter, truncation: settings of the reconstruction, as in ``fbp``.
        grid: function from the grid of a file to that of the reconstruction; by default the same.
        max_dead_share: share of dead pixels above which a scan is rejected.
        pixel_model: a pixel model (docs/pixel_model_file.md), with whose pixels the counts are
            decomposed; pixels that it flags are filled from their neighbours.
        dead_times: a file of dead times (docs/dead_time.md), which counts and air are corrected
            with first; pixels beyond their greatest rate are filled from their neighbours.
        view_s: counting time of a view for files that do not hold it.
        noise_maps: compute the standard deviation of maps and images in every voxel.
        pairs: pairs of events of a photon, as in ``pairs_of``: the noise of the bins is correlated;
            by default counts are Poisson.
        seed: seed of the noise added to primary counts for comparison.
    """

    def __init__(
        self,
        scans: str | None,
        scatter: CorrectionBuilder | None,
        decomposition: Callable[..., Decomposition],
        vmi_keV: list[float],
        materials: list[str] | None = None,
        filter: str = "ramp",
        truncation: str = "water",
        grid: Callable[[VolumeGrid], VolumeGrid] = changed_grid,
        max_dead_share: float = 0.05,
        pixel_model: str | None = None,
        dead_times: str | None = None,
        view_s: float | None = None,
        noise_maps: bool = True,
        pairs: str | None = None,
        seed: int = 0,
    ) -> None:
        if scans is None:
            raise ValueError(
                "scans needs a value: scans=FILE.h5 (docs/scan_file.md), or a folder of such "
                "files, for instance from simulate.py"
            )
        self.paths = scan_files(scans)
        for path in self.paths:
            safe_stem(path.stem, path, reserved=_RESERVED)
        pixels = None if pixel_model is None else read_pixel_model(pixel_model)
        self.doubts = [] if pixels is None else [f"{pixel_model}: {d}" for d in _doubts(pixels)]
        for doubt in self.doubts:
            log.warning("%s", doubt)
        chains = ScanChains(decomposition, scatter, vmi_keV, materials, filter, truncation, pixels)
        of_counters = None if dead_times is None else read_dead_times(dead_times)
        if view_s is not None:
            require_positive(view_s=view_s)
        of_events = None if pairs is None else pairs_of(pairs)
        self.evaluator = ScanEvaluator(
            chains, max_dead_share, grid, seed, of_counters, view_s, noise_maps, of_events
        )

    def run(self, context: Context) -> StudyResults:
        """Evaluate the scans. Earlier outputs are moved aside when the first scan is finished.

        Raises:
            ValueError: none of the scans can be used.
        """
        report, rejected = _Report(), []
        report.remarks += [f"{doubt}." for doubt in self.doubts]
        for path in track(self.paths, "scans", console=console(stderr=True)):
            try:
                scan = self.evaluator.evaluate(path)
            except ValueError as error:  # the other scans are evaluated nonetheless
                rejected.append(str(error))
                continue
            if not report.names:
                self._begin(context)
            write_scan_folder(scan, context.folder / path.stem, context.config)
            report.add(scan)
        if len(rejected) == len(self.paths):
            raise ValueError(rejected[0])
        results = report.results()
        if rejected:
            results.failure = (
                f"{len(rejected)} of {len(self.paths)} scans cannot be used; {context.folder} "
                "holds the others: " + "; ".join(rejected)
            )
        return results

    def _begin(self, context: Context) -> None:
        """Move the outputs of an earlier evaluation aside.

        Outputs of an interrupted evaluation with the same configuration are removed: they will be
        made again.
        """
        made = finished_scans(context.path)
        for path in self.paths:
            if path.stem not in made and (context.path / path.stem).exists():
                raise OSError(
                    f"{context.path / path.stem} exists and was not made by an evaluation: choose "
                    "another folder with folder=FOLDER"
                )
        finished = (context.path / MARKER).exists()
        keep = finished or any(digest != digest_of(context.config) for digest in made.values())
        context.begin((MARKER, *made, *OUTPUTS[1:]), keep)


def _doubts(pixels: PixelModel) -> list[str]:
    """Warnings about errors that all pixels share, one sentence each."""
    relative = [
        "it was calibrated from counts relative to the sum over all pixels: a skew and a threshold "
        "bias common to all pixels are not corrected; use calibration=etb with the exposure of "
        "each plate to determine them"
    ]
    return [*(relative if pixels.gauge == "relative" else ()), *pixels.warnings]


class _Report:
    """Collects the numbers of all scans, and arrays for the figures of the first ones."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.remarks: list[str] = []
        self.numbers: dict[str, list[float]] = {}
        self.errors, self.from_truth = ErrorTable(), ErrorTable()
        self.correction = ""
        self.arrays: dict[str, Tensor | np.ndarray] = {}
        self.figures: list[str] = []

    def add(self, scan: EvaluatedScan) -> None:
        name = scan.path.stem
        self.names.append(name)
        self.correction = scan.correction
        for key, value in scan.numbers.items():
            self.numbers.setdefault(key, []).append(value)
        self.errors.extend(scan.errors)
        self.from_truth.extend(scan.from_truth)
        self.arrays[f"{name}/dead_pixels"] = scan.dead
        if len(scan.dead):
            self.remarks.append(f"{len(scan.dead)} dead pixels of {name}: {_listed(scan.dead)}.")
        if n_slices := int(scan.numbers["slices_with_unknown_voxels"]):
            self.remarks.append(
                f"{scan.numbers['voxels_unknown_percent']:.3g} % of the voxels of {name}, in "
                f"{n_slices} of its slices, are unknown (NaN): their rays miss the panel above or "
                "below in at least one view."
            )
        if (percent := scan.numbers.get("noise_unknown_percent", 0.0)) > 0:
            self.remarks.append(
                f"The noise of {percent:.3g} % of the voxels of the object in {name} is not known "
                "(NaN): a ray through them was not solved or lies on a limit of the decomposition, "
                "or they lie outside the circle that the detector measures."
            )
        if scan.cut_off:
            self.remarks.append(f"{name}: {scan.cut_off}.")
        for difference in scan.differences:
            remark = f"The checkpoint was trained with a different geometry: {difference}."
            if remark not in self.remarks:
                self.remarks.append(remark)
        if len(self.names) <= _MOST_DRAWN:
            self._draw(name, scan)

    def _draw(self, name: str, scan: EvaluatedScan) -> None:
        grid = scan.recorded.grid
        self.arrays[f"{name}/voxel_cm"] = np.array(grid.spacing_cm)
        for title, volume, unit in scan.volumes():
            label = f"{title}_{unit.replace('/', '_')}"
            self.arrays[f"{name}/axial.{label}"] = volume[grid.n_z // 2]
            self.arrays[f"{name}/coronal.{label}"] = volume[:, grid.n_y // 2]
        self.figures.append(f"evaluation.slices:{name}")
        for title, volume, unit in scan.noise_volumes():
            label = f"{title.removeprefix('noise_')}_{unit.replace('/', '_')}"
            self.arrays[f"{name}/axial_noise.{label}"] = volume[grid.n_z // 2]
            self.arrays[f"{name}/coronal_noise.{label}"] = volume[:, grid.n_y // 2]
        if scan.noise is not None:
            self.figures.append(f"evaluation.noise:{name}")
        if scan.outcome.scatter_fraction is not None:
            self.arrays[f"{name}/edges_keV"] = scan.edges_keV
            self.arrays[f"{name}/scatter_fraction"] = scan.outcome.scatter_fraction[0, :, 0]
            self.figures.append(f"evaluation.scatter_fraction:{name}")

    def results(self) -> StudyResults:
        numbers = {"n_scans": float(len(self.names))}
        for key, values in self.numbers.items():
            total = sum(values)
            numbers[key] = total if key == "dead_pixels" else total / len(values)
        tables = self.errors.tables()
        if self.from_truth.values:
            tables.append(self.from_truth.side_by_side(self.from_truth.methods, _TITLE))
        tabulated = self.errors.summary() | self.from_truth.means()
        remarks = [f"{len(self.names)} scan(s), scatter correction: {self.correction}."]
        for metric in self.errors.image_metrics:
            if (after := self.errors.values.get((metric, CORRECTED))) is not None:
                remarks.append(
                    f"{metric.label}: {self.errors.share(metric):.2f} of the uncorrected error "
                    f"remains, {np.mean(after):.1f} HU."
                )
        return StudyResults(
            numbers=numbers | tabulated,
            arrays=self.arrays,
            figures=self.figures,
            summary=" ".join([*remarks, *self.remarks]),
            tables=tables,
            tabulated=tabulated,
        )


def _listed(pixels: Tensor) -> str:
    places = ", ".join(f"({row}, {column})" for row, column in pixels[:_MOST_LISTED].tolist())
    return places + (" …" if len(pixels) > _MOST_LISTED else "") + " (row, column)"
