"""The files of a simulated bench: frames, logs, mask, spectrum, response, and their description."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pcctlearn.files.atomic import written_whole
from pcctlearn.physics.spectrum import cell_widths_keV
from pcctlearn.simulation.bench import BenchMeasurement, Measurement

DESCRIPTION = "bench.yaml"
_HEAD = "# Frames of a simulated bench; docs/bench.md describes the keys.\n"
_SPECTRUM, _RESPONSE, _MASK, _KNOWN = "spectrum.txt", "response.npz", "mask.npy", "phantom.npz"


def bench_files(bench: BenchMeasurement) -> tuple[str, ...]:
    """Names of all files, the description first."""
    frames = [
        name
        for of in bench.measurements()
        for name in (*_frame_names(bench, of), *([_log_name(of)] if of.name != "dark" else []))
    ]
    return (DESCRIPTION, _SPECTRUM, _RESPONSE, _MASK, _KNOWN, *frames)


def write_bench(folder: Path, bench: BenchMeasurement) -> None:
    """Write all files, each whole or not at all, the description last."""
    _write_scanner(folder, bench)
    with written_whole(folder / _MASK) as path, path.open("wb") as file:
        np.save(file, bench.dead.numpy().astype(np.uint8))
    line_integrals = bench.line_integrals().numpy().astype(np.float32)
    maps = bench.phantom.maps(bench.grid, oversampling=4)[:, None].numpy().astype(np.float32)
    with written_whole(folder / _KNOWN) as path, path.open("wb") as file:
        np.savez_compressed(file, line_integrals=line_integrals, maps=maps)
    for of in bench.measurements():
        _write_frames(folder, bench, of)
        if of.name != "dark":
            _write_log(folder, bench, of)
    with written_whole(folder / DESCRIPTION) as path:
        text = yaml.safe_dump(_description(bench), sort_keys=False, default_flow_style=None)
        path.write_text(_HEAD + text, encoding="utf-8")


def _description(bench: BenchMeasurement) -> dict[str, Any]:
    measured = {of.name: of for of in bench.measurements()}

    def exposure(name: str, **more: Any) -> dict[str, Any]:
        log = {} if name == "dark" else {"log": _log_name(measured[name])}
        return {**more, "frames": _frame_names(bench, measured[name]), **log}

    geometry, grid = bench.geometry, bench.grid
    return {
        "name": "simulated bench",
        "spectrum": _SPECTRUM,
        "response": _RESPONSE,
        "thresholds_keV": bench.thresholds_keV,
        "detector": {
            "n_rows": bench.panel.n_rows,
            "n_columns": bench.panel.n_columns,
            "missing_columns": dict(bench.panel.missing_columns),
            "counter_bits": bench.counter_bits,
            "mask": _MASK,
        },
        "raw": {"dtype": bench.dtype},
        "frame_s": bench.frame_s,
        "dark": exposure("dark"),
        "air": [exposure("air_before"), exposure("air_after")],
        "plates": [
            exposure(name, thickness_cm=dict(of.thickness_cm or {}))
            for name, of in measured.items()
            if name.startswith("plate_")
        ],
        "scan": {
            **exposure("scan"),
            "frames_per_view": bench.frames_per_view,
            "geometry": {
                "beam": "fan",
                "pixel_cm": geometry.pixel_cm,
                "source_to_axis_cm": geometry.source_to_axis_cm,
                "source_to_detector_cm": geometry.source_to_detector_cm,
                "offset_cm": geometry.offset_cm,
                "axis_offset_cm": geometry.axis_offset_cm,
            },
            "grid": {"n_z": 1, "n_y": grid.n_y, "n_x": grid.n_x, "voxel_cm": grid.voxel_cm},
            "known_object": {"file": _KNOWN, "materials": list(bench.phantom.materials)},
        },
    }


def _write_scanner(folder: Path, bench: BenchMeasurement) -> None:
    model = bench.model
    per_keV = model.fluence / cell_widths_keV(model.energies_keV)
    rows = zip(model.energies_keV.tolist(), (per_keV / per_keV.max()).tolist(), strict=True)
    with written_whole(folder / _SPECTRUM) as path:
        lines = ["energy_keV fluence_per_keV", *(f"{keV:.8g} {n:.10g}" for keV, n in rows)]
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    names = ("energies_keV", "deposited_keV", "response_per_keV")
    with written_whole(folder / _RESPONSE) as path, path.open("wb") as file:
        np.savez_compressed(file, **{name: getattr(bench.response, name).numpy() for name in names})


def _write_frames(folder: Path, bench: BenchMeasurement, of: Measurement) -> None:
    """One file for each threshold, written block by block."""
    shape = (of.n_frames, *bench.panel.raw_shape)
    with ExitStack() as stack:
        paths = [
            stack.enter_context(written_whole(folder / name)) for name in _frame_names(bench, of)
        ]
        files = [_created(path, bench.file_format, shape, bench.dtype) for path in paths]
        start = 0
        for block in bench.frames(of):
            for index, file in enumerate(files):
                file[start : start + len(block)] = block[:, index]
            start += len(block)
        for file in files:
            file.flush()


def _created(path: Path, file_format: str, shape: tuple[int, ...], dtype: str) -> np.memmap:
    """A new file of a stack, mapped into memory."""
    if file_format == "npy":
        return np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    if file_format == "tif":
        try:
            import tifffile
        except ImportError:
            raise ImportError(
                "TIFF stacks need tifffile: pip install tifffile, or datasets.file_format=raw"
            ) from None
        return tifffile.memmap(path, shape=shape, dtype=dtype, photometric="minisblack")
    return np.memmap(path, np.dtype(dtype).newbyteorder("<"), "w+", shape=shape)


def _write_log(folder: Path, bench: BenchMeasurement, of: Measurement) -> None:
    """The reading of the monitor in each frame, and for a scan the angle."""
    columns = {"monitor": bench.monitor(of).numpy()}
    if of.name == "scan":
        columns["angle_deg"] = bench.angles_deg()
    rows = np.stack([*columns.values()], 1).tolist()
    lines = [",".join(columns), *(",".join(f"{value:.8g}" for value in row) for row in rows)]
    with written_whole(folder / _log_name(of)) as path:
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _frame_names(bench: BenchMeasurement, of: Measurement) -> list[str]:
    ending = bench.file_format
    return [f"{of.name}_{keV:g}keV.{ending}" for keV in bench.thresholds_keV]


def _log_name(of: Measurement) -> str:
    return f"{of.name}.csv"


def frames_shown(bench: BenchMeasurement) -> tuple[np.ndarray, np.ndarray]:
    """A frame of each view above the lowest threshold (view, column), and its monitor reading."""
    (of,) = [m for m in bench.measurements() if m.name == "scan"]
    rows = [block[:: bench.frames_per_view, 0, 0] for block in bench.frames(of)]
    return np.concatenate(rows), bench.monitor(of)[:: bench.frames_per_view].numpy()
