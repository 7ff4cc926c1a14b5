"""Scans from files through the chain: what is written of each, and a report of all."""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import track
from torch import Tensor

from pcctlearn.command.console import console
from pcctlearn.command.threads import set_threads
from pcctlearn.datasets.nifti_writer import write_nifti
from pcctlearn.datasets.scan_files import scan_files
from pcctlearn.experiments.config import check_nodes
from pcctlearn.experiments.results import StudyResults, print_table, store, write_run
from pcctlearn.experiments.run_folder import MARKER, OUTPUTS, held, set_aside
from pcctlearn.experiments.scan_chain import ScanChains
from pcctlearn.experiments.scan_evaluator import EvaluatedScan, ScanEvaluator
from pcctlearn.experiments.scatter_judge import NOISY, Judgement
from pcctlearn.files import folder_written_whole, safe_stem, written_whole

_UNITS = {
    "counts": "photons",
    "corrected_counts": "photons",
    "scatter_fraction": "1",
    "line_integrals": "g/cm2",
}
_RESERVED = (*OUTPUTS, ".lock")  # names in the folder that no scan may have
_MOST_DRAWN = 10  # scans
_MOST_LISTED = 12  # dead pixels


def evaluate(config: DictConfig) -> None:
    """Correct, decompose and reconstruct the scans of ``config.scans``, one after the other."""
    began = time.perf_counter()
    check_nodes(
        config,
        scans=str | None,
        vmi_keV=list[float],
        materials=list[str] | None,
        folder=str,
        max_dead_share=float,
        truncation=str,
    )
    set_threads(config.n_threads)
    if config.scans is None:
        raise ValueError(
            "scans needs a value: scans=FILE.h5 (docs/scan_file.md), or a folder of such files, as "
            "simulate.py writes them"
        )
    paths, folder = scan_files(config.scans), _folder(config)
    for path in paths:
        safe_stem(path.stem, path, reserved=_RESERVED)
    chains = ScanChains(
        instantiate(config.decomposition, _convert_="all"),
        instantiate(config.scatter, _convert_="all"),
        [float(energy) for energy in config.vmi_keV],
        None if config.materials is None else list(config.materials),
        config.truncation,
    )
    evaluator = ScanEvaluator(chains, config.max_dead_share, config.seed)
    text = OmegaConf.to_yaml(config, resolve=True)
    with held(folder, "folder"):
        table, refused = _Table(), []
        for path in track(paths, "scans", console=console(stderr=True)):
            try:
                scan = evaluator.evaluate(path)
            except ValueError as error:  # concerns this scan alone; the others are evaluated
                refused.append(str(error))
                continue
            if not table.names:  # earlier outputs stay until there is a new one
                _set_aside(folder, paths, text)
            write_scan_folder(scan, folder / path.stem, text)
            table.add(scan)
        if len(refused) == len(paths):
            raise ValueError(refused[0])
        name, results = "evaluated scans", table.results()
        write_run(name, results, folder, text, began)
    print_table(name, results, folder, time.perf_counter() - began)
    if refused:
        raise ValueError(
            f"{len(refused)} of {len(paths)} scans cannot be used, and {folder} holds the others: "
            + "; ".join(refused)
        )


def _folder(config: DictConfig) -> Path:
    """The folder of the outputs; each job of a sweep has a numbered folder in it."""
    folder = Path(config.folder)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return folder / str(HydraConfig.get().job.num)
    return folder


def _set_aside(folder: Path, paths: Sequence[Path], config: str) -> None:
    """Move the outputs of an earlier evaluation out of a held folder.

    Outputs of an interrupted evaluation with this configuration are removed, since all of them are
    made again.
    """
    made = {path.parent.name: _made_by(path) for path in folder.glob("*/scan.json")}
    for path in paths:
        if path.stem not in made and (folder / path.stem).exists():
            raise OSError(
                f"{folder / path.stem} exists and was not made by an evaluation: choose "
                "another folder with folder=FOLDER"
            )
    keep = (folder / MARKER).exists() or any(digest != _digest(config) for digest in made.values())
    set_aside(folder, "folder", (MARKER, *made, *OUTPUTS[1:]), keep)


def _made_by(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("config_sha256")
    except (ValueError, AttributeError):
        return None


def _digest(config: str) -> str:
    return hashlib.sha256(config.encode()).hexdigest()


def write_scan_folder(scan: EvaluatedScan, folder: Path, config: str = "") -> None:
    """Projections, a volume for each material and energy, and ``scan.json``; all at once.

    ``config`` is the resolved YAML that made them; its SHA-256 is kept in ``scan.json``.
    """
    with folder_written_whole(folder) as part:
        _write_projections(scan, part / "projections.h5")
        frame = None if scan.scanner_to_patient is None else scan.scanner_to_patient.numpy()
        for name, volume, unit in scan.volumes():
            path = part / f"{name}.nii.gz"
            write_nifti(path, volume, scan.grid, unit, frame, scan.unknown)
        record = {
            "scan": str(scan.path),
            "correction": scan.correction,
            "config_sha256": _digest(config),
            "differences": scan.differences,
            "dead_pixels": scan.dead.tolist(),
            "numbers": scan.numbers,
            "errors": scan.errors,
        }
        with written_whole(part / "scan.json") as path:
            text = json.dumps(record, indent=2, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")


def _write_projections(scan: EvaluatedScan, path: Path) -> None:
    with written_whole(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(scan=str(scan.path), correction=scan.correction)
        for stage, unit in _UNITS.items():
            values = getattr(scan.outcome, stage)
            if values is None or (stage == "counts" and scan.outcome.corrected_counts is not None):
                continue
            array = values[0].float().numpy()
            chunk = (len(array), 1, *array.shape[2:])  # a view can be read alone
            dataset = store(file, stage, array, chunks=chunk)
            first = "material" if stage == "line_integrals" else "bin"
            dataset.attrs.update(unit=unit, axes=f"{first} view row column")
        file["line_integrals"].attrs["materials"] = list(scan.materials)
        dead = store(file, "dead_pixels", scan.dead.numpy())
        dead.attrs["axes"] = "pixel, (row, column)"


class _Table:
    """Numbers of all scans, and what is drawn of the first ones."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.remarks: list[str] = []
        self.numbers: dict[str, list[float]] = {}
        self.judgement = Judgement()
        self.arrays: dict[str, Tensor | np.ndarray] = {}
        self.figures: list[str] = []

    def add(self, scan: EvaluatedScan) -> None:
        name = scan.path.stem
        self.names.append(name)
        self.correction = scan.correction
        for key, value in scan.numbers.items():
            self.numbers.setdefault(key, []).append(value)
        for method, errors in scan.errors.items():
            self.judgement.add(method, errors, "")
        self.arrays[f"{name}/dead_pixels"] = scan.dead
        if len(scan.dead):
            self.remarks.append(f"{len(scan.dead)} dead pixels of {name}: {_listed(scan.dead)}.")
        if n_slices := int(scan.numbers["slices_with_unknown_voxels"]):
            self.remarks.append(
                f"{scan.numbers['voxels_unknown_percent']:.3g} % of the voxels of {name}, in "
                f"{n_slices} of its slices, lie beyond the rows of the panel and are unknown (NaN)."
            )
        for difference in scan.differences:
            sentence = f"The scanner of the checkpoint is another: {difference}."
            if sentence not in self.remarks:
                self.remarks.append(sentence)
        if len(self.names) <= _MOST_DRAWN:
            self._draw(name, scan)

    def _draw(self, name: str, scan: EvaluatedScan) -> None:
        grid = scan.grid
        self.arrays[f"{name}/voxel_cm"] = np.array(grid.spacing_cm)
        for title, volume, unit in scan.volumes():
            label = f"{title}_{unit.replace('/', '_')}"
            self.arrays[f"{name}/axial.{label}"] = volume[grid.n_z // 2]
            self.arrays[f"{name}/coronal.{label}"] = volume[:, grid.n_y // 2]
        self.figures.append(f"evaluation.slices:{name}")
        if scan.outcome.scatter_fraction is not None:
            self.arrays[f"{name}/edges_keV"] = scan.edges_keV
            self.arrays[f"{name}/scatter_fraction"] = scan.outcome.scatter_fraction[0, :, 0]
            self.figures.append(f"evaluation.scatter_fraction:{name}")

    def results(self) -> StudyResults:
        numbers = {"n_scans": float(len(self.names))}
        for key, values in self.numbers.items():
            total = sum(values)
            numbers[key] = total if key == "dead_pixels" else total / len(values)
        numbers |= self.judgement.numbers()
        remarks = [f"{len(self.names)} scan(s), scatter correction: {self.correction}."]
        for metric in self.judgement.errors.get("corrected", {}):
            if metric.removeprefix(NOISY).startswith("vmi"):
                remarks.append(
                    f"{metric} is {numbers[f'{metric}_over_uncorrected']:.2f} of its value without "
                    f"correction, {numbers[metric]:.1f} HU."
                )
        return StudyResults(
            numbers=numbers,
            arrays=self.arrays,
            figures=self.figures,
            summary=" ".join([*remarks, *self.remarks]),
        )


def _listed(pixels: Tensor) -> str:
    places = ", ".join(f"({row}, {column})" for row, column in pixels[:_MOST_LISTED].tolist())
    return places + (" …" if len(pixels) > _MOST_LISTED else "") + " (row, column)"
