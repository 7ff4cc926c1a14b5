"""A small simulated bench, its files, and changes to them."""

from pathlib import Path

import numpy as np
import yaml
from support.plates import cdte_scanner

from pcctlearn.phantoms.ellipses import water_calcium_phantom
from pcctlearn.simulation.bench import BenchMeasurement
from pcctlearn.simulation.bench_files import write_bench
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

FAN = FanBeam(36, 43, 0.8, 75.0, 108.5)  # two modules of 20 columns, three missing between them
PLATES_CM = {"aluminium": [0.5, 1.0, 1.5, 2.0]}
FLAWS = DetectorErrors(0.004, 0.001, (-0.0075, 0.01), 2 / 3)


def bench_of(**changes) -> BenchMeasurement:
    """A bench of forty pixels; dead and noisy ones, and the drift, are off."""
    settings = {
        "geometry": FAN,
        "grid": ImageGrid(40, 40, 0.6),
        "phantom": water_calcium_phantom((18.0, 14.0), (3.0, 3.0), 5.0, 0.2),
        "errors": FLAWS,
        "plates_cm": PLATES_CM,
        "n_modules": 2,
        "n_dark": 20,
        "n_air": 100,
        "n_plate": 100,
        "frames_per_view": 3,
        "drift": 0.0,
        "monitor_error": 0.0,
        "noisy_share": 0.0,
        "dead_share": 0.0,
    }
    return BenchMeasurement(cdte_scanner(), **(settings | changes))


def written(folder: Path, bench: BenchMeasurement | None = None) -> Path:
    """Write the files of a bench; its description."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bench(folder, bench or bench_of())
    return folder / "bench.yaml"


def frames_of(file: Path, name: str) -> np.ndarray:
    """The frames of a measurement, (frame, threshold, column), from its raw files."""
    stacks = [
        np.fromfile(file.parent / f"{name}_{keV}keV.raw", "<u2").reshape(-1, 40) for keV in (40, 60)
    ]
    return np.stack(stacks, 1)


def describe(file: Path, change) -> None:
    """Change the description of a bench."""
    node = yaml.safe_load(file.read_text())
    change(node)
    file.write_text(yaml.safe_dump(node, sort_keys=False))
