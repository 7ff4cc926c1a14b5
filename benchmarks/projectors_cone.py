"""Benchmark of cone-beam projection, its adjoint and FDK against RTK: time, accuracy, memory.

256³ voxels of 0.08 cm, a panel of 256 rows × 384 columns of 0.1035 cm, 48 views over 240°. All
methods take turns in one run; times are medians. Errors are relative to exact line integrals
averaged over a pixel.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from math import radians
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.measures import adjoint_error, arithmetic_flops, timed
from pcctlearn.phantoms.ellipses import Ellipse
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.projector import projector

SIZE, VIEWS = 256, 48
PHANTOM = EllipsoidPhantom(  # without any symmetry
    [
        Ellipse((0.3, -0.4, 0.2), (8.0, 6.5, 6.0), (0.2,), tilt_rad=0.3),
        Ellipse((2.5, 1.5, 1.0), (1.5, 1.0, 2.0), (0.15,), tilt_rad=0.8),
        Ellipse((-3.0, 1.0, -1.0), (0.8, 1.8, 1.2), (-0.1,), tilt_rad=-0.4),
        Ellipse((1.0, -3.0, -2.0), (1.2, 0.6, 0.9), (0.3,), tilt_rad=1.2),
        Ellipse((-2.0, -2.0, 2.0), (0.5, 0.5, 0.5), (0.5,)),
    ],
    materials=["water"],
)
Map = Callable[[Tensor], Tensor]
Clock = Callable[[], float]
JOBS = ("forward", "back", "fdk")


@dataclass
class Method:
    """Projection from (z, y, x) to (view, row, column), its transpose, and FDK."""

    name: str
    label: str
    forward: Map
    back: Map
    fdk: Map
    most_repeats: int = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=SIZE, help="voxels a side, same extent")
    parser.add_argument("--views", type=int, default=VIEWS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--baseline", type=Path, help="kernels to compare with: a Python file")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--alone", action="store_true", help="without peers")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="time of the processor, on a machine with other jobs; with one thread",
    )
    parser.add_argument("--memory-only", action="store_true", help="peak memory of one pass")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    beam, grid = setup(arguments.size, arguments.views)
    if arguments.memory_only:
        print(peak_memory_mb(beam, grid))
        return
    print(beam, grid, sep="\n")
    peak_MB = fresh_process_peak_memory_mb(arguments.size, arguments.views)
    device = torch.device(arguments.device)
    methods = [ours(beam, grid, device)]
    if device.type == "cpu" and not arguments.alone:
        methods += [*rtk(beam, grid), *baseline(beam, grid, arguments.baseline)]
    clock = process_time if arguments.cpu_time else perf_counter
    results = measure(beam, grid, methods, arguments.repeats, device, clock)
    results |= work(beam, grid, device, clock)
    console = Console(width=110)
    console.print(table(beam, grid, methods, results))
    results["peak_memory_MB"] = peak_MB
    print(f"peak memory of a fresh process on the CPU {peak_MB:.0f} MB")
    if (arguments.size, arguments.views) != (SIZE, VIEWS):
        reference = setup(SIZE, VIEWS)
        results |= growth(reference, results, arguments.repeats, device, clock, console)
    for line in remarks(results):
        print(line)
    if arguments.json:
        renamed = {key.removeprefix("ours_"): value for key, value in results.items()}
        arguments.json.write_text(json.dumps(renamed, indent=2) + "\n", encoding="utf-8")


def setup(size: int, views: int) -> tuple[ConeBeam, VolumeGrid]:
    """The benchmark's scanner and grid with scaled voxels and pixels."""
    scale = SIZE / size
    grid = VolumeGrid(size, size, size, 0.08 * scale)
    rows, columns = round(256 / scale), round(384 / scale)
    beam = ConeBeam(views, rows, columns, 0.1035 * scale, 62.5, 109.7, arc_rad=radians(240))
    return beam, grid


def measure(
    beam: ConeBeam,
    grid: VolumeGrid,
    methods: list[Method],
    repeats: int,
    device: torch.device,
    clock: Clock,
) -> dict[str, float]:
    volume = PHANTOM.volumes(grid)[0].to(device)
    x = torch.randn(grid.shape, device=device)
    sinogram = methods[0].forward(volume)
    few = np.linspace(0, beam.n_views - 1, 4).astype(int)
    exact = line_integrals(replace(beam, n_views=4, view_angles_rad=beam.angles_rad[few]))
    ours_fdk = methods[0].fdk(sinogram)
    results: dict[str, float] = {}
    for method in methods:
        projected = method.forward(volume)
        error = projected[few.tolist()].cpu() - exact
        results[f"{method.name}_relative_error"] = float(error.norm() / exact.norm())
        results[f"{method.name}_adjoint_error"] = adjoint_error(method.forward, method.back, x)
        if method.name == "rtk":
            inner = (slice(grid.n_z // 8, -grid.n_z // 8),) * 3
            gap = (method.fdk(sinogram) - ours_fdk)[inner].norm() / ours_fdk[inner].norm()
            results["fdk_difference_from_rtk"] = float(gap)
            gap = (projected - sinogram)[:, 4:-4, 4:-4].norm() / sinogram.norm()
            results["forward_difference_from_rtk"] = float(gap)
    times = take_turns(methods, volume, sinogram, repeats, device, clock)
    for name, seconds in times.items():
        results[f"{name}_s"] = median(seconds)
    for peer in methods[1:]:
        for job in JOBS:
            ratio = results[f"{peer.name}_{job}_s"] / results[f"ours_{job}_s"]
            results[f"{job}_speedup_over_{peer.name}"] = ratio
    return results


def take_turns(
    methods: list[Method],
    volume: Tensor,
    sinogram: Tensor,
    repeats: int,
    device: torch.device,
    clock: Clock,
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {f"{m.name}_{job}": [] for m in methods for job in JOBS}
    for repeat in range(repeats):
        for method in methods:
            if repeat >= method.most_repeats:
                continue
            for job, operand in zip(JOBS, (volume, sinogram, sinogram), strict=True):
                seconds = timed(partial(getattr(method, job), operand), device, clock)
                times[f"{method.name}_{job}"].append(seconds)
    return times


def work(beam: ConeBeam, grid: VolumeGrid, device: torch.device, clock: Clock) -> dict[str, float]:
    """Number of samples, and a lower limit of the time from arithmetic speed and bandwidth.

    A sample of the projector is a ray in one plane: two multiply-adds along x or y, and one and a
    difference along z. FDK needs as many for each voxel in each view.
    """
    rays = beam.n_views * beam.n_rows * beam.n_columns
    samples = {"forward": rays * grid.n_x, "fdk": beam.n_views * grid.n_x**3}
    samples["back"] = samples["forward"]
    flops, bandwidth = arithmetic_flops(device, clock), bandwidth_bytes(device, clock)
    n_bytes = 4 * (rays + grid.n_x**3)
    results = {f"{job}_samples": float(n) for job, n in samples.items()}
    for job, n in samples.items():
        results[f"{job}_floor_s"] = max(8 * n / flops, n_bytes / bandwidth)
    return results | {"flops": flops, "bandwidth_bytes": bandwidth}


def bandwidth_bytes(device: torch.device, clock: Clock) -> float:
    """Bytes read and written a second in a copy."""
    a = torch.randn(1 << 26, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / median(timed(lambda: b.copy_(a), device, clock) for _ in range(7))


def growth(
    reference: tuple[ConeBeam, VolumeGrid],
    results: dict[str, float],
    repeats: int,
    device: torch.device,
    clock: Clock,
    console: Console,
) -> dict[str, float]:
    """Ratio of times over ratio of work, relative to the benchmark's default size."""
    volume = torch.rand(reference[1].shape, device=device)
    method = ours(*reference, device)
    sinogram = method.forward(volume)
    method.back(sinogram), method.fdk(sinogram)
    times = take_turns([method], volume, sinogram, repeats, device, clock)
    before, now = work(*reference, device, clock), {}
    table = Table(title="time grows with rays × planes, or voxels × views")
    for heading in ("", "work", "time", "time / work"):
        table.add_column(heading, justify="right")
    for job in JOBS:
        more_work = results[f"{job}_samples"] / before[f"{job}_samples"]
        more_time = results[f"ours_{job}_s"] / median(times[f"ours_{job}"])
        now[f"{job}_time_over_work"] = more_time / more_work
        table.add_row(
            job, f"× {more_work:.3g}", f"× {more_time:.3g}", f"{more_time / more_work:.2f}"
        )
    console.print(table)
    return now


def fresh_process_peak_memory_mb(size: int, views: int) -> float:
    """Peak memory of a fresh process; call this first, since it includes the parent's memory."""
    options = ["--memory-only", "--size", str(size), "--views", str(views)]
    return float(subprocess.check_output([sys.executable, __file__, *options]))


def peak_memory_mb(beam: ConeBeam, grid: VolumeGrid) -> float:
    """Peak memory of this process after projection, adjoint and FDK."""
    A, reconstruct = projector(beam, grid), fbp(beam, grid)
    y = A @ torch.rand(grid.shape)
    for operator in (A.T, reconstruct):
        operator @ y
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def ours(beam: ConeBeam, grid: VolumeGrid, device: torch.device) -> Method:
    A = projector(beam, grid)
    return Method("ours", f"pcctlearn, {device}", A, A.T, fbp(beam, grid).to(device))


def rtk(beam: ConeBeam, grid: VolumeGrid) -> list[Method]:
    try:
        from benchmarks.rtk_cone import RtkCone
    except ImportError:
        print("RTK (itk-rtk) is not installed: skipped")
        return []
    peer = RtkCone(beam, grid)
    return [Method("rtk", "RTK Joseph, FDK", peer.forward, peer.adjoint, peer.fdk, 3)]


def baseline(beam: ConeBeam, grid: VolumeGrid, path: Path | None) -> list[Method]:
    """Loops of another program (fwd, adj, vd_bp): volumes (y, x, z), sinograms (view, u, v).

    Only the loops are timed, on arrays already in their axis order; FDK has no filter.
    """
    if path is None:
        return []
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a Python file")
    kernels = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(kernels)
    beta = beam.angles_rad - np.pi / 2
    numbers = (beam.source_to_axis_cm, beam.source_to_detector_cm, beam.column_cm, beam.row_cm,
               grid.spacing_cm[0])  # fmt: skip
    n, (views, rows, columns) = grid.n_x, beam.shape
    by_y, by_x = (np.ones((n, n, n), np.float32) for _ in range(2))
    lines = np.ones((views, columns, rows), np.float32)

    def forward(x: Tensor) -> Tensor:
        kernels.fwd(by_x, by_y, lines, beta, *numbers)
        return x.new_zeros(beam.shape)

    def back(y: Tensor) -> Tensor:
        kernels.adj(lines, by_x, by_y, beta, *numbers)
        return y.new_zeros(grid.shape)

    def gather(y: Tensor) -> Tensor:
        kernels.vd_bp(lines, by_y, beta, np.ones(views), *numbers)
        return y.new_zeros(grid.shape)

    return [Method("baseline", f"{path.stem}, loops only", forward, back, gather)]


def line_integrals(beam: ConeBeam, oversampling: int = 3) -> Tensor:
    """Exact line integrals, averaged over each pixel."""
    k = oversampling
    pixel_cm = (beam.row_cm / k, beam.column_cm / k)
    fine = replace(beam, n_rows=beam.n_rows * k, n_columns=beam.n_columns * k, pixel_cm=pixel_cm)
    return avg_pool2d(PHANTOM.line_integrals(*fine.rays())[0], k).float()


def table(
    beam: ConeBeam, grid: VolumeGrid, methods: list[Method], results: dict[str, float]
) -> Table:
    views, rows, columns = beam.shape
    title = f"cone beam, {grid.n_x}³, {columns} × {rows} panel, {views} views over 240°"
    table = Table(title=title)
    headings = ("forward s", "back s", "FDK s", "it / pcctlearn", "relative error", "adjoint error")
    for heading in ("method", *headings):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for method in methods:
        seconds = [results[f"{method.name}_{job}_s"] for job in JOBS]
        ratios = [s / results[f"ours_{job}_s"] for s, job in zip(seconds, JOBS, strict=True)]
        accuracy = [results[f"{method.name}_{key}_error"] for key in ("relative", "adjoint")]
        known = method.name != "baseline"
        table.add_row(
            method.label,
            *(f"{s:.3f}" for s in seconds),
            " / ".join(f"{ratio:.2f}" for ratio in ratios),
            f"{accuracy[0]:.5f}" if known else "",
            f"{accuracy[1]:.1e}" if known else "",
        )
    return table


def remarks(results: dict[str, float]) -> list[str]:
    lines = []
    for job in JOBS:
        samples, seconds, floor = (
            results[name] for name in (f"{job}_samples", f"ours_{job}_s", f"{job}_floor_s")
        )
        lines.append(
            f"{job}: {samples / 1e9:.2f} G samples, {seconds / samples * 1e9:.3f} ns each; "
            f"lower limit {floor:.4f} s, {floor / seconds:.0%} of the speed it allows"
        )
    lines.append(
        f"lower limits from {results['flops'] / 1e9:.0f} GFLOP/s and "
        f"{results['bandwidth_bytes'] / 1e9:.1f} GB/s, measured in this run"
    )
    if "forward_difference_from_rtk" in results:
        lines.append(
            f"relative difference from RTK: forward {results['forward_difference_from_rtk']:.1e}, "
            f"FDK {results['fdk_difference_from_rtk']:.1e}"
        )
    return lines


if __name__ == "__main__":
    main()
