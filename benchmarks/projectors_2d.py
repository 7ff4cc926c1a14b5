"""Benchmark of parallel-beam projection and back-projection: time, accuracy, adjointness, peers.

256 columns × 180 views × 256² voxels of 0.15 cm, a batch of 8. All methods take turns in one run;
times are medians. Errors are relative to exact line integrals averaged over a column.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measures import adjoint_error, timed
from pcctlearn.phantoms.ellipses import Ellipse, EllipsePhantom
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import ParallelBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.tomography.linear_operator import LinearOperator
from pcctlearn.tomography.slice_projector import SliceProjector

BATCH = 8
BEAM, GRID = ParallelBeam(180, 256, 0.15), ImageGrid(256, 256, 0.15)
PHANTOM = EllipsePhantom(  # without any symmetry
    [
        Ellipse((0.5, -0.7), (14.0, 11.0), (0.2,), tilt_rad=0.3),
        Ellipse((4.0, 3.0), (3.0, 2.0), (0.15,), tilt_rad=0.8),
        Ellipse((-6.0, 2.0), (1.5, 3.5), (-0.1,), tilt_rad=-0.4),
        Ellipse((1.0, -6.0), (2.2, 0.9), (0.3,), tilt_rad=1.2),
        Ellipse((-3.0, -4.0), (0.8, 0.8), (0.5,)),
    ],
    materials=["water"],
)
Map = Callable[[Tensor], Tensor]


@dataclass
class Method:
    """Projection of (batch, y, x) and back-projection of (batch, view, column)."""

    name: str
    label: str
    forward: Map
    back: Map
    axis_shift_cm: float = 0.0  # of the rotation axis, to the right of and below the image center
    most_repeats: int = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.manual_seed(0)

    projector = SliceProjector(BEAM, GRID)
    matrix_free = SliceProjector(BEAM, GRID, backend="numba")
    reconstruct = fbp(BEAM, GRID, truncation="cosine")
    methods = [
        Method("ours", "pcctlearn, sparse matrix", *both_ways(projector)),
        Method("kernels", "pcctlearn, no matrix", *both_ways(matrix_free)),
        *scikit_image(),
        *rtk_joseph(),
    ]
    results = measure(methods, reconstruct, arguments.repeats) | floor(projector)
    Console(width=110).print(table(methods, results))
    print(f"FBP {results['fbp_ms']:.1f} ms")
    print(
        f"lower limit: a pass over the matrix reads {results['bytes_per_pass'] / 1e6:.0f} MB, "
        f"{results['floor_ms']:.1f} ms at the measured {results['bandwidth_gb_s']:.1f} GB/s"
    )
    if arguments.json:
        renamed = {key.removeprefix("ours_"): value for key, value in results.items()}
        arguments.json.write_text(json.dumps(renamed, indent=2) + "\n", encoding="utf-8")


def measure(methods: list[Method], reconstruct: LinearOperator, repeats: int) -> dict[str, float]:
    image = phantom().expand(BATCH, -1, -1).contiguous()
    x = torch.randn(image.shape) * inscribed_disc()  # scikit-image ignores voxels outside it
    sinogram = methods[0].forward(image)
    jobs: dict[str, tuple[Callable[[], Tensor], int]] = {}
    results: dict[str, float] = {}
    for method in methods:
        truth = line_integrals(method.axis_shift_cm)
        error = method.forward(image)[0] - truth
        results[f"{method.name}_relative_error"] = float(error.norm() / truth.norm())
        results[f"{method.name}_adjoint_error"] = adjoint_error(method.forward, method.back, x)
        for direction, function, operand in (
            ("forward", method.forward, image),
            ("back", method.back, sinogram),
        ):
            jobs[f"{method.name}_{direction}_ms"] = partial(function, operand), method.most_repeats
    jobs["fbp_ms"] = partial(reconstruct, sinogram), repeats

    times_ms: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(repeats):
        for name, (job, most_repeats) in jobs.items():
            if repeat < most_repeats:
                times_ms[name].append(1e3 * timed(job, "cpu"))
    results |= {name: median(times) for name, times in times_ms.items()}
    for peer in methods[2:]:
        for direction in ("forward", "back"):
            ratio = results[f"{peer.name}_{direction}_ms"] / results[f"ours_{direction}_ms"]
            results[f"{direction}_speedup_over_{peer.name}"] = ratio
    return results


def floor(projector: SliceProjector) -> dict[str, float]:
    """Time to read the matrix once at the bandwidth of the sum of a large array."""
    n_bytes = sum(
        projector.get_buffer(f"matrix_{part}").nbytes for part in ("starts", "indices", "weights")
    )
    array = torch.ones(n_bytes // 4)
    seconds = median(timed(array.sum, "cpu") for _ in range(9))
    return {
        "bytes_per_pass": n_bytes,
        "bandwidth_gb_s": n_bytes / seconds / 1e9,
        "floor_ms": 1e3 * seconds,
    }


def both_ways(A: LinearOperator) -> tuple[Map, Map]:
    return A, A.T


def scikit_image() -> list[Method]:
    try:
        from skimage.transform import iradon, radon
    except ImportError:
        print("scikit-image is not installed: skipped")
        return []
    angles = np.degrees(BEAM.angles_rad)
    n_columns, pixel = BEAM.n_columns, BEAM.pixel_cm
    scale = 2 * BEAM.n_views / np.pi * pixel  # iradon averages over views

    def forward(x: Tensor) -> Tensor:
        sinograms = [radon(image.numpy(), angles).T * pixel for image in x]
        return torch.from_numpy(np.stack(sinograms)).to(x.dtype)

    def back(y: Tensor) -> Tensor:
        images = [iradon(s.numpy().T, angles, n_columns, None) * scale for s in y]
        return torch.from_numpy(np.stack(images)).to(y.dtype)

    return [Method("skimage", "scikit-image radon, iradon", forward, back, pixel / 2, 3)]


def rtk_joseph() -> list[Method]:
    """RTK's Joseph projectors, with the batch as slices along the axis and sdd = 0 (parallel rays).

    An empty slice is added at either end, since RTK's rays miss the outermost slices.
    """
    try:
        import itk
        from itk import RTK
    except ImportError:
        print("RTK (itk-rtk) is not installed: skipped")
        return []
    image_type = itk.Image[itk.F, 3]
    geometry = RTK.ThreeDCircularProjectionGeometry.New()
    for angle in np.degrees(BEAM.angles_rad):
        geometry.AddProjection(1000.0, 0.0, float(angle))

    def to_itk(array: Tensor, spacing: tuple[float, float, float]) -> "itk.Image":
        array = torch.nn.functional.pad(array.movedim(0, 1), (0, 0, 1, 1))
        image = itk.image_from_array(array.contiguous().numpy(), ttype=image_type)
        image.SetSpacing(spacing)
        sizes = reversed(array.shape)
        image.SetOrigin([-(n - 1) / 2 * s for n, s in zip(sizes, spacing, strict=True)])
        return image

    def run(kind: Any, into: "itk.Image", operand: "itk.Image") -> Tensor:
        pipeline = kind[image_type, image_type].New()
        pipeline.SetGeometry(geometry)
        pipeline.SetInput(0, into)
        pipeline.SetInput(1, operand)
        pipeline.Update()
        output = torch.from_numpy(itk.array_from_image(pipeline.GetOutput()))
        return output[:, 1:-1].movedim(1, 0)

    volume_spacing = (GRID.voxel_cm,) * 3
    stack_spacing = (BEAM.pixel_cm, GRID.voxel_cm, 1.0)

    def forward(x: Tensor) -> Tensor:
        into = to_itk(torch.zeros(len(x), *BEAM.shape), stack_spacing)
        return run(RTK.JosephForwardProjectionImageFilter, into, to_itk(x, volume_spacing))

    def back(y: Tensor) -> Tensor:
        into = to_itk(torch.zeros(len(y), *GRID.shape), volume_spacing)
        return run(RTK.JosephBackProjectionImageFilter, into, to_itk(y, stack_spacing))

    return [Method("rtk", "RTK Joseph", forward, back, most_repeats=3)]


def phantom() -> Tensor:
    return PHANTOM.maps(GRID)[0].float()


def inscribed_disc() -> Tensor:
    n = GRID.n_x
    i = torch.arange(n) - n // 2
    return (i**2 + i[:, None] ** 2 < (n // 2 - 1) ** 2).float()


def line_integrals(axis_shift_cm: float, oversampling: int = 8) -> Tensor:
    """Exact line integrals, for a rotation axis and a central column displaced by axis_shift_cm."""
    n_columns, pixel_cm = BEAM.n_columns * oversampling, BEAM.pixel_cm / oversampling
    points, directions = replace(BEAM, n_columns=n_columns, pixel_cm=pixel_cm).rays()
    along_detector = np.stack([directions[..., 1], -directions[..., 0]], -1)
    points = points + axis_shift_cm * (np.array([1, -1]) - along_detector)
    fine = PHANTOM.line_integrals(points, directions)[0]
    return fine.unflatten(-1, (-1, oversampling)).mean(-1).float()


def table(methods: list[Method], results: dict[str, float]) -> Table:
    table = Table(title="2-D parallel beam, 256 columns × 180 views × 256², batch 8")
    headings = ("forward ms", "back ms", "scikit-image / it", "relative error", "adjoint error")
    for heading in ("method", *headings):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for method in methods:
        r = {key: results[f"{method.name}_{key}"] for key in ("forward_ms", "back_ms")}
        ratios = [results.get(f"skimage_{key}", np.nan) / value for key, value in r.items()]
        table.add_row(
            method.label,
            f"{r['forward_ms']:.1f}",
            f"{r['back_ms']:.1f}",
            " / ".join(f"{ratio:.1f}" for ratio in ratios),
            f"{results[f'{method.name}_relative_error']:.5f}",
            f"{results[f'{method.name}_adjoint_error']:.1e}",
        )
    return table


if __name__ == "__main__":
    main()
