"""Folder of an evaluated scan: projections, volumes, and a record of numbers."""

import hashlib
import json
from pathlib import Path

import h5py

from pcctlearn.evaluation.evaluator import EvaluatedScan
from pcctlearn.files.atomic import folder_written_whole, written_whole
from pcctlearn.patients.nifti_writer import write_nifti
from pcctlearn.runs.results import store

_RECORD = "scan.json"
_UNITS = {
    "counts": "photons",
    "corrected_counts": "photons",
    "scatter_fraction": "1",
    "line_integrals": "g/cm2",
}


def write_scan_folder(scan: EvaluatedScan, folder: Path, config: str = "") -> None:
    """Write projections, a volume for each material and energy, and ``scan.json``, atomically.

    ``config`` is the resolved YAML of the evaluation; ``scan.json`` holds its SHA-256.
    """
    with folder_written_whole(folder) as part:
        _write_projections(scan, part / "projections.h5")
        to_patient = scan.recorded.scanner_to_patient
        frame = None if to_patient is None else to_patient.numpy()
        volumes = [(*each, scan.unknown) for each in scan.volumes()]
        volumes += [(*each, scan.noise_unknown) for each in scan.noise_volumes()]
        for name, volume, unit, unknown in volumes:
            path = part / f"{name}.nii.gz"
            write_nifti(path, volume, scan.recorded.grid, unit, frame, unknown)
        record = {
            "scan": str(scan.path),
            "correction": scan.correction,
            "config_sha256": digest_of(config),
            "differences": scan.differences,
            "dead_pixels": scan.dead.tolist(),
            "numbers": scan.numbers,
            "errors": scan.errors.by_method(),
            "errors_from_truth": scan.from_truth.by_method(),
        }
        with written_whole(part / _RECORD) as path:
            text = json.dumps(record, indent=2, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")


def finished_scans(folder: Path) -> dict[str, str | None]:
    """{name: digest of the configuration} of the evaluated scans in a folder."""
    return {path.parent.name: _made_by(path) for path in folder.glob(f"*/{_RECORD}")}


def digest_of(config: str) -> str:
    """SHA-256 of a configuration."""
    return hashlib.sha256(config.encode()).hexdigest()


def _made_by(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("config_sha256")
    except (ValueError, AttributeError):
        return None


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
