"""Benchmark of maximum-likelihood decomposition: rays per second, with and without the gradient.

4 bins × 2 materials × 108 energies, float32, deep silicon at 120 kV, 1e6 photons a ray with Poisson
noise; random water 0-30 g/cm² and calcium 0-3 g/cm². ``--beam columns`` gives each of 256 columns
its own spectra; ``--beam iodine`` has six bins and a third material, 0-0.05 g/cm². Methods take
turns in one run; times are medians. Peers: Newton's method of this project without compiled
functions, its Nelder–Mead, its proxy, and the simplex of RTK if it is installed. The proxy has the
default size and is not trained, which does not change its speed.

The lower limit is the arithmetic of three evaluations of all energies, two forward and one
backward, at the speed of a matrix product: a multiply-add for each material, each bin and each of
its moments, and eight for an exponential.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measures import arithmetic_flops, timed
from pcctlearn.decomposition.adapters import rtk_simplex
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.minima import WARM_START
from pcctlearn.decomposition.polynomial import fit_polynomial
from pcctlearn.decomposition.proxy import ProxyDecomposition
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.response.analytic import Analytic
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.solvers.nelder_mead import NelderMead
from pcctlearn.studies.layer_speed import of_layer, untrained_proxy

ROOT = Path(__file__).resolve().parents[1]
BOUNDS = [[-5.0, -7.75, -2.0], [60.0, 15.5, 2.0]]
N_COLUMNS = 256
NELDER_MEAD_RAYS = 20_000
UNCOMPILED_RAYS = 100_000
PROXY_WIDTHS = (48, 48, 48)  # as in conf/training/proxy.yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--rays", type=int, default=400_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--photons", type=float, default=1e6, help="that reach a pixel in air")
    parser.add_argument("--beam", choices=("usual", "columns", "iodine"), default="usual")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-rays", type=int, default=10_000_000, help="0: no memory test")
    parser.add_argument("--memory-only", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_only:
        print(json.dumps(memory(arguments.memory_only)))
        return

    spectra, attenuation = scanner(arguments.device, arguments.photons, arguments.beam)
    A, counts = rays(arguments.rays, spectra, attenuation)
    solution = decompose(counts, spectra, attenuation, bounds=bounds(attenuation))
    results = {
        "energies": float(spectra.shape[-1]),
        "converged_share": float(solution.converged.double().mean()),
        "rms_error_over_crlb": error_over_crlb(solution.x, A, spectra, attenuation),
        "threads": float(torch.get_num_threads()),
    }
    logging.getLogger("pcctlearn").setLevel(logging.ERROR)  # rays that the proxy does not cover
    proxy = None
    if arguments.beam != "columns":  # a proxy has one spectrum for all pixels
        model = spectral_model(arguments.photons, arguments.beam).requires_grad_(False)
        proxy = untrained_proxy(model, PROXY_WIDTHS).to(arguments.device)
    results |= measure(counts, spectra, attenuation, proxy, arguments.repeats, arguments.device)
    results |= lower_limit(results, spectra, attenuation, arguments.device)
    if arguments.memory_rays and arguments.device == "cpu":
        results |= memory_of_a_fresh_process(arguments.memory_rays)
    Console(width=100).print(table(results))
    print(f"{100 * results['converged_share']:.2f} % of the rays converged")
    if isfinite(results["rms_error_over_crlb"]):
        print(f"RMS error over the Cramér–Rao bound: {results['rms_error_over_crlb']:.3f}")
    print(
        f"lower limit of forward and backward: {results['limit_rays_per_s'] / 1e6:.1f} million "
        f"rays/s at {results['flops'] / 1e9:.0f} GFLOP/s; {results['share_of_limit']:.0%} reached"
    )
    if "peak_growth_mb" in results:
        print(
            f"{arguments.memory_rays / 1e6:g} million rays, forward and backward: "
            f"{results['peak_growth_mb']:.0f} MB in addition to the counts; "
            f"{results['peak_mb']:.0f} MB at the peak"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def scanner(device: str, photons: float = 1e6, beam: str = "usual") -> tuple[Tensor, Tensor]:
    """Spectra (bin, 108), or (256, bin, 108) of columns, and attenuation, float32."""
    model = spectral_model(photons, beam)
    S = model.spectra().detach()
    if beam == "columns":  # as if thresholds and filter differed by a few per cent
        tilt = torch.linspace(-0.05, 0.05, S.shape[-1])
        S = S * (1 + torch.linspace(-1, 1, N_COLUMNS)[:, None, None] * tilt)
    return S.float().to(device), model.attenuation.float().to(device)


def spectral_model(photons: float, beam: str) -> SpectralModel:
    """Deep silicon at 120 kV, with a third material and six bins for the beam "iodine"."""
    spectrum = Spectrum(
        ROOT / "data/physics/spectra/tungsten_120kV_12deg.csv",
        {"aluminium": 0.25},
        photons_per_pixel=photons,
    )
    silicon = Analytic("silicon", 6.0, sharing_keV=217.0, sharing_exponent=3.2)
    edges, materials = [15.0, 33.0, 45.0, 59.0, 120.0], ["water", "calcium"]
    if beam == "iodine":
        edges, materials = [15.0, 25.0, 33.2, 42.0, 50.3, 70.0, 120.0], [*materials, "iodine"]
    return SpectralModel.from_parts(spectrum, silicon, Thresholds(edges), materials)


def bounds(attenuation: Tensor) -> list[list[float]]:
    return [side[: len(attenuation)] for side in BOUNDS]


def rays(n: int, spectra: Tensor, attenuation: Tensor) -> tuple[Tensor, Tensor]:
    """Line integrals and noisy counts, made in pieces to save memory; columns are the last axis."""
    generator = torch.Generator().manual_seed(0)
    columns = [len(spectra)] if spectra.ndim > 2 else []
    n_rows = n // (len(spectra) if columns else 1)
    most = torch.tensor([30.0, 3.0, 0.05][: len(attenuation)])
    A = torch.rand(n_rows, *columns, len(attenuation), generator=generator) * most
    S, mu = spectra.cpu(), attenuation.cpu()
    counts = torch.empty(n_rows, *columns, S.shape[-2])
    size = 65536 if not columns else 256
    for piece, target in zip(A.split(size), counts.split(size), strict=True):
        target.copy_(draw_counts(expected_counts(piece, S, mu), generator))
    return A.to(spectra.device), counts.to(spectra.device)


def measure(
    counts: Tensor,
    spectra: Tensor,
    attenuation: Tensor,
    proxy: ProxyDecomposition | None,
    repeats: int,
    device: str,
) -> dict[str, float]:
    width = len(spectra) if spectra.ndim > 2 else 1
    few, some = counts[: NELDER_MEAD_RAYS // width], counts[: UNCOMPILED_RAYS // width]
    limits = bounds(attenuation)

    def forward() -> None:
        with torch.no_grad():
            decompose(counts, spectra, attenuation, bounds=limits)

    def both() -> None:
        n = counts.requires_grad_()
        decompose(n, spectra, attenuation, bounds=limits).x.sum().backward()
        n.grad = None

    def both_in_spectra() -> None:
        n, S = (t.clone().requires_grad_() for t in (counts.detach(), spectra))
        decompose(n, S, attenuation, bounds=limits).x.sum().backward()

    def uncompiled() -> None:
        with torch.no_grad():
            decompose(some, spectra, attenuation, bounds=limits, warm_start=WARM_START)

    def both_in_all() -> None:
        leaves = [t.clone().requires_grad_() for t in (counts.detach(), spectra, attenuation)]
        decompose(*leaves, bounds=limits).x.sum().backward()

    def nelder_mead() -> None:
        with torch.no_grad():
            decompose(few, spectra, attenuation, bounds=limits, solver=NelderMead(), warm_start=())

    jobs: dict[str, tuple[Callable[[], object], int, int]] = {
        "forward": (forward, len(counts) * width, repeats),
        "forward_backward": (both, len(counts) * width, repeats),
        "forward_backward_spectra": (both_in_spectra, len(counts) * width, repeats),
        "forward_backward_all": (both_in_all, len(counts) * width, repeats),
        "uncompiled": (uncompiled, len(some) * width, repeats),
    }
    if proxy is not None:
        calls = of_layer(proxy, counts.detach().mT[None, :, None], repeats)
        assert calls.forward_backward is not None
        jobs["proxy"] = calls.forward, len(counts), repeats
        jobs["proxy_backward"] = calls.forward_backward, len(counts), repeats
    usual = width == 1 and len(attenuation) == 2
    if usual:  # Nelder–Mead takes minutes with three materials
        jobs["nelder_mead"] = nelder_mead, len(few), 1
    forward()  # warms caches and threads, and compiles
    both_in_spectra()
    if proxy is not None:
        jobs["proxy_backward"][0]()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(repeats):
        for name, (job, _, most) in jobs.items():
            if repeat < most:
                times[name].append(timed(job, device))
    results = {
        f"{name}_rays_per_s": jobs[name][1] / median(seconds) for name, seconds in times.items()
    }
    if usual:
        results |= rtk()
    for peer in ("uncompiled", "proxy", "nelder_mead", "rtk_simplex"):
        if f"{peer}_rays_per_s" in results:
            ratio = results["forward_rays_per_s"] / results[f"{peer}_rays_per_s"]
            results[f"forward_speedup_over_{peer}"] = ratio
    return results


def lower_limit(
    results: dict[str, float], spectra: Tensor, attenuation: Tensor, device: str
) -> dict[str, float]:
    """Rays per second that arithmetic allows forward and backward, and the share reached."""
    K, n_bins = len(attenuation), spectra.shape[-2]
    per_energy = n_bins * (1 + K + K * (K + 1) // 2) + K + 8
    flops = arithmetic_flops(device)
    limit = flops / (2 * 3 * per_energy * spectra.shape[-1])
    share = results["forward_backward_rays_per_s"] / limit
    return {"flops": flops, "limit_rays_per_s": limit, "share_of_limit": share}


def memory_of_a_fresh_process(n: int) -> dict[str, float]:
    """``memory`` in a fresh process, whose peak does not include other methods."""
    command = [sys.executable, __file__, "--memory-only", str(n)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(answer.stdout.splitlines()[-1])


def memory(n: int) -> dict[str, float]:
    """Peak resident memory of the decomposition of n rays with its gradient, and its growth."""
    spectra, attenuation = scanner("cpu")
    counts = rays(n, spectra, attenuation)[1].requires_grad_()
    before = resident_mb()
    decompose(counts, spectra, attenuation, bounds=bounds(attenuation)).x.sum().backward()
    peak = resident_mb("VmHWM")
    return {"peak_growth_mb": peak - before, "peak_mb": peak, "memory_rays": float(n)}


def resident_mb(field: str = "VmRSS") -> float:
    """Resident memory, or its peak with ``VmHWM``; without /proc always the peak."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, ru_maxrss includes the parent process before exec
        (line,) = (
            row
            for row in status.read_text(encoding="ascii").splitlines()
            if row.startswith(f"{field}:")
        )
        return float(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def error_over_crlb(x: Tensor, A: Tensor, spectra: Tensor, attenuation: Tensor) -> float:
    """RMS of x − A in units of its bound, over rays with at least 100 counts in each bin."""
    from pcctlearn.decomposition.sensitivity import fisher_information

    if spectra.ndim > 2:  # one column
        A, x, spectra = A[:, 0], x[:, 0], spectra[0]
    A, x = A[:50_000].double(), x[:50_000].double()
    S, mu = spectra.double(), attenuation.double()
    bright = (expected_counts(A, S, mu) >= 100).all(-1)
    error = (x - A)[bright]
    information = fisher_information(A[bright], S, mu)
    return float(torch.einsum("rk,rkm,rm->r", error, information, error).mean().div(len(mu)).sqrt())


def rtk() -> dict[str, float]:
    """Speed of RTK's Nelder–Mead decomposition of the same problem, if itk-rtk is installed."""
    spectra, attenuation = scanner("cpu")
    _, counts = rays(4096, spectra, attenuation)
    polynomial = fit_polynomial(spectra, attenuation)
    start = polynomial.clamped(polynomial(counts, spectra.sum(-1)))
    try:
        simplex = rtk_simplex.prepare(counts, spectra, attenuation, start).forward
    except ImportError as error:
        print(f"{error}: skipped")
        return {}
    seconds = timed(simplex, "cpu")
    ours = decompose(counts, spectra, attenuation, bounds=bounds(attenuation)).x
    return {
        "rtk_simplex_rays_per_s": len(counts) / seconds,
        "rtk_simplex_median_difference_g_cm2": float((ours - simplex()).abs().median()),
    }


def table(results: dict[str, float]) -> Table:
    rows = {
        "forward": "pcctlearn, forward",
        "forward_backward": "pcctlearn, forward + gradient in counts",
        "forward_backward_spectra": "pcctlearn, forward + gradient in counts, spectra",
        "forward_backward_all": "pcctlearn, forward + gradient in counts, spectra, attenuation",
        "proxy": "proxy layer (untrained), forward",
        "proxy_backward": "proxy layer (untrained), forward + gradient in counts",
        "uncompiled": "Newton without compiled functions (pcctlearn), forward",
        "nelder_mead": "Nelder–Mead (pcctlearn), forward",
        "rtk_simplex": "RTK simplex, forward",
    }
    shown = Table(title=f"decomposition, {results['threads']:.0f} threads", title_justify="left")
    shown.add_column("method")
    shown.add_column("million rays/s", justify="right")
    shown.add_column("pcctlearn forward / it", justify="right")
    for key, label in rows.items():
        if f"{key}_rays_per_s" in results:
            speed = results[f"{key}_rays_per_s"]
            shown.add_row(
                label, f"{speed / 1e6:.4f}", f"{results['forward_rays_per_s'] / speed:.1f}"
            )
    return shown


if __name__ == "__main__":
    main()
