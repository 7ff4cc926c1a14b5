"""The job of simulate.py: scans, counts behind plates, frames of a bench, or a response."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from pcctlearn.calibration.plate_file import write_plates
from pcctlearn.console import say
from pcctlearn.figures.arrays import as_array
from pcctlearn.montecarlo.detector.simulation import ResponseSimulation
from pcctlearn.montecarlo.tally import relative_noise
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.runs.context import Context
from pcctlearn.runs.folder import MARKER, OUTPUTS, held
from pcctlearn.runs.results import StudyResults
from pcctlearn.scans.file import read_scan
from pcctlearn.simulation.bench import BenchMeasurement
from pcctlearn.simulation.bench_files import DESCRIPTION, bench_files, frames_shown, write_bench
from pcctlearn.simulation.plates import PlateMeasurement
from pcctlearn.simulation.scans import SimulatedScans, bars, is_report
from pcctlearn.simulation.simulator import mean_spr

PLATES_FILE = "plates.h5"
_MOST_LISTED = 12  # scan files listed in the warning, at most
_MOST_SHOWN = 10  # objects in a figure


class Simulation:
    """Simulate this job's shard of the scans, and report once all exist; or something else.

    Args:
        scans: constructor of the set of scans, called if the others are ``None``.
        detector: simulation of a detector, whose response table is made instead of scans.
        plates: measurement of a detector behind plates, which is made instead of scans.
        bench: frames of a bench, which are made instead of scans.
        response_folder: folder of the response table.
    """

    shares_folder = True

    def __init__(
        self,
        scans: Callable[[], SimulatedScans],
        detector: ResponseSimulation | None,
        response_folder: str,
        plates: PlateMeasurement | None = None,
        bench: BenchMeasurement | None = None,
    ) -> None:
        others = (detector, plates, bench)
        self.scans = scans() if all(other is None for other in others) else None
        self.plates, self.bench = plates, bench
        self.detector, self.response_folder = detector, Path(response_folder)

    def run(self, context: Context) -> StudyResults | None:
        """Simulate missing scans; return the results of the whole set, once it is complete."""
        if self.detector is not None:
            _make_response(self.detector, self.response_folder)
            return None
        if self.plates is not None:
            return _measure_plates(self.plates, context)
        if self.bench is not None:
            return _leave_frames(self.bench, context)
        assert self.scans is not None
        self.scans.make()
        paths = self.scans.paths
        n_made = sum(path.is_file() for path in paths)
        if n_made < len(paths):
            say(f"{n_made} of {len(paths)} scans exist; other jobs simulate the remaining ones")
            return None
        if others := set((context.path / "scans").glob("[!.]*.h5")) - set(paths):
            say(
                f"{len(others)} scan files in {context.path / 'scans'} do not belong to this set: "
                + ", ".join(sorted(path.name for path in others)[:_MOST_LISTED])
            )
        results = _results(paths)
        context.hold(wait=True)
        keep = (context.path / MARKER).exists() and not is_report(context.path)
        context.begin(OUTPUTS, keep)
        return results


def _make_response(simulation: ResponseSimulation, folder: Path) -> None:
    """Simulate photons in a detector and write its response table."""
    with held(folder, "response_folder"):
        with bars(simulation.name) as (bar,):
            simulation.run(bar)
        before = set(folder.iterdir())
        for path in simulation.write(folder):
            verb = "replaced" if path in before else "wrote"
            say(f"{verb} {path}")


def _measure_plates(measurement: PlateMeasurement, context: Context) -> StudyResults:
    """Write a plate file and describe it."""
    record = measurement.record(context.name, context.config)
    plates, path = record.plates, context.path / PLATES_FILE
    context.begin((MARKER, PLATES_FILE, *OUTPUTS[1:]))
    write_plates(path, record)
    median = plates.counts.flatten(1, -2).median(1).values
    numbers = {"n_pixels": float(plates.counts[0, ..., 0].numel())}
    for index, keV in enumerate(plates.thresholds_keV.tolist()):
        for exposure, counts in enumerate(median[:, index].tolist()):
            numbers[f"median_counts.{keV:g}keV.exposure_{exposure}"] = counts
    named = ", ".join(plates.named(index) for index in range(len(plates.counts)))
    return StudyResults(
        numbers=numbers,
        arrays={
            "nominal_keV": plates.thresholds_keV,
            "plates_cm": plates.plates_cm.sum(-1),
            "median_counts": median,
        },
        figures=["plates.transmission"],
        summary=f"Counts above thresholds behind {named}; wrote {path}.",
    )


def _leave_frames(bench: BenchMeasurement, context: Context) -> StudyResults:
    """Write the files of a bench and describe them."""
    names = bench_files(bench)
    context.begin((MARKER, *names, *OUTPUTS[1:]))
    write_bench(context.path, bench)
    n_bytes = sum((context.path / name).stat().st_size for name in names)
    sinogram, monitor = frames_shown(bench)
    return StudyResults(
        numbers={"n_files": float(len(names)), "megabytes": n_bytes / 1e6},
        arrays={"sinogram": sinogram, "monitor": monitor},
        figures=["bench.frames"],
        summary=f"Frames of dark, air, plates and a scan; wrote {context.path / DESCRIPTION} and "
        f"the {len(names) - 1} files that it names.",
    )


def _results(paths: list[Path]) -> StudyResults:
    arrays = ("primary", "scatter", "scatter_standard_error", "line_integrals")
    spr, by_bin, noise, factors = [], [], [], []
    for path in paths:
        scan = read_scan(path, arrays)
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
    numbers, amount = {"n_scans": float(len(paths))}, "no scatter"
    if noise:
        numbers |= {
            "spr_mean": float(np.mean(spr)),
            "spr_least": min(spr),
            "spr_most": max(spr),
            "grid_transmission_mean": float(np.mean(factors)),
        }
        for number, value in enumerate(np.mean(by_bin, 0), 1):
            numbers[f"spr_bin_{number}_mean"] = float(value)
        numbers["scatter_relative_error_most"] = float(max(noise))
        amount = (
            f"mean scatter-to-primary ratio {100 * numbers['spr_mean']:.3g} %, mean grid "
            f"transmission {numbers['grid_transmission_mean']:.3g}"
        )
    return StudyResults(
        numbers=numbers,
        arrays={
            "spr": np.array(spr),
            "spr_by_bin": np.array(by_bin),
            **_first(paths[0]),
            **_middle_slices(paths[:_MOST_SHOWN]),
        },
        figures=[
            "simulated_scans.primary_and_scatter" if noise else "simulated_scans.primary_sinogram",
            "simulated_scans.cases",
        ],
        summary=f"{len(paths)} scan{'s' * (len(paths) > 1)} in {paths[0].parent}: {amount}.",
    )


def _first(path: Path) -> dict[str, np.ndarray]:
    """Two views of a scan and a row of its pixels in all views, for the figures."""
    with h5py.File(path) as file:
        air, thresholds = file["air"][()], file["thresholds_keV"][()]
        n_views, n_rows = file["primary"].shape[1:3]
        views, row = [0, n_views // 3] if n_views > 2 else [0], n_rows // 2
        return {
            "first/views": np.array(views),
            "first/air": air,
            "first/edges_keV": thresholds.reshape(-1, len(air) + 1).mean(0),
            "first/sinogram": file["primary"][:, :, row] / air[:, None, row],
            **{f"first/{name}": file[name][:, views] for name in ("primary", "scatter")},
        }


def _middle_slices(paths: list[Path]) -> dict[str, np.ndarray]:
    """Axial and coronal slices through the middle of each object at 60 keV, in HU."""
    shown = {"shown": as_array([path.stem for path in paths])}
    for path in paths:
        with h5py.File(path) as file:
            maps = file["maps"]
            z, y = maps.shape[1] // 2, maps.shape[2] // 2
            cuts = {"axial": maps[:, z], "coronal": maps[:, :, y][:, ::-1].copy()}  # head at top
            image = MonoenergeticImages([str(name) for name in maps.attrs["materials"]], [60.0])
        for plane, cut in cuts.items():
            values = image.hounsfield(torch.from_numpy(cut)[None])[0, 0]
            shown[f"{plane}_HU/{path.stem}"] = values.numpy()
    return shown
