"""Check of the noise maps: coverage over repeated scans, and the bias of rays with few counts.

A procedural head, 120 kV on deep silicon with four bins, maximum likelihood in the box of
``evaluate.py``, ramp filter. Each scan is drawn anew, decomposed and reconstructed, and its noise
maps are computed from its own counts. The coverage is the share of body voxels, over all draws,
whose estimate ± 1 sd contains the value of the same chain without noise; 68.3 % is exact for
normal noise. ``fan`` is a full turn without scatter, ``cone`` a short scan from whose counts
uniform scatter is subtracted.

    sd predicted / drawn   root of the mean variance of the maps over that of the repeated scans
    bias                   RMS over voxels of (mean of the draws − value without noise) / sd, with
                           the part 1/√draws that chance alone makes subtracted
    rays                   one ray behind 20 g/cm² of water and 1 g/cm² of calcium: bias of the
                           estimate over its sd, and sd predicted over drawn, of the rays that are
                           solved inside the box
    pairs                  the same ray at 1e6 photons, which may be registered more than once: sd
                           of the Poisson estimate, drawn, over that of independent Poisson counts
                           ("Poisson"), over that predicted from the covariance of the counts
                           ("correlated"), and over that of the best weighted estimate
                           ("weighted")
    cost                   noise maps over decomposition and reconstruction, processor time
"""

import argparse
import json
import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.decomposition import ROOT, spectral_model
from benchmarks.measures import timed
from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood, decompose
from pcctlearn.decomposition.sensitivity import (
    correlated_bound,
    cramer_rao_bound,
    poisson_estimate_covariance,
)
from pcctlearn.evaluation.count_noise import count_covariance, scaled_covariance
from pcctlearn.evaluation.noise import Covariance, RayNoise
from pcctlearn.patients.procedural import ProceduralCases
from pcctlearn.physics.noise import draw_correlated, draw_counts
from pcctlearn.physics.response.pairs import pair_counts
from pcctlearn.physics.response.presets import cdte_monte_carlo, pairs_of, silicon_monte_carlo
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import SHADOW_G_CM2, Scan
from pcctlearn.scatter.uniform import UniformScatter
from pcctlearn.shapes import Counts, channels_first
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.linear_operator import LinearOperator
from pcctlearn.tomography.projector import projector
from pcctlearn.tomography.variance import fbp_variance

TUBE = ROOT / "data/physics/spectra/tungsten_120kV_12deg.csv"
BOX = {"water": [-5.0, 60.0], "calcium": [-7.75, 15.5]}  # as in conf/decomposition
BEAMS: dict[str, tuple[Geometry, VolumeGrid]] = {
    "fan": (FanBeam(240, 128, 0.48, 62.5, 109.7), VolumeGrid(1, 128, 104, 0.2)),
    "cone": (
        ConeBeam(48, 12, 96, 0.48, 62.5, 109.7, arc_rad=4.18879),
        VolumeGrid(24, 128, 104, 0.2),
    ),
}
VMI_keV = [60.0, 100.0]
SCATTER_OVER_AIR = 5e-4
BODY_G_CM3 = 0.5
RAY_COUNTS = (1, 3, 10, 30, 100)  # mean over the bins
N_RAYS = 40_000
RAY_G_CM2 = (20.0, 1.0)  # of water and calcium
DETECTORS = {
    "silicon from 15 keV": (silicon_monte_carlo, "silicon_monte_carlo", (15, 33, 45, 59, 120)),
    "CdTe from 15 keV": (cdte_monte_carlo, "cdte_monte_carlo", (15, 33, 45, 59, 120)),
    "CdTe from 25 keV": (cdte_monte_carlo, "cdte_monte_carlo", (25, 45, 60, 75, 120)),
}


class Scanner(NamedTuple):
    """A chain, and the noise maps of its scans."""

    chain: Chain
    variance: LinearOperator
    geometry: Geometry
    grid: VolumeGrid

    def noise(self, scan: Scan, seed: int) -> Covariance:
        """Covariance of the maps, from the counts of this scan."""
        counts, correct = scan.at("counts"), self.chain.correct
        if correct is None:
            of_counts = scaled_covariance(torch.ones(counts.shape[1], 1, 1, 1), counts)
        else:
            generator = torch.Generator().manual_seed(seed)
            of_counts = count_covariance(lambda n: n * (1 - correct(n)), counts, generator)
        nothing = torch.zeros(counts.shape[-2:], dtype=torch.bool)
        noise = RayNoise.of(self.chain.decompose, scan, of_counts, nothing)
        return noise.of_maps(self.variance, self.geometry, self.grid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beam", choices=BEAMS, nargs="+", default=list(BEAMS))
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--photons", type=float, nargs="+", default=[1e6, 1e5, 1e4, 4e3])
    parser.add_argument("--rays", type=int, default=N_RAYS, help="draws of the single ray")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    arguments = parser.parse_args()
    logging.getLogger("pcctlearn").setLevel(logging.ERROR)  # rays on a limit, which are counted
    warnings.filterwarnings("ignore", message="truncated along z")  # of other slices
    results = {
        f"{beam}, {photons:g} photons": coverage(beam, photons, arguments.draws)
        for beam in arguments.beam
        for photons in arguments.photons
    }
    results |= {f"ray, {counts} counts": ray(counts, arguments.rays) for counts in RAY_COUNTS}
    results |= {f"pairs, {name}": correlated(name, arguments.rays) for name in DETECTORS}
    results |= {f"cost, {beam}": cost(beam) for beam in arguments.beam}
    for kind in (*arguments.beam, "ray", "pairs", "cost"):
        Console(width=140).print(table(kind, results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def built(beam: str, photons: float) -> tuple[Scanner, Counts]:
    """A scanner, and the expected counts of the head."""
    geometry, grid = BEAMS[beam]
    model = spectral_model(photons, "usual").float().requires_grad_(False)
    maps = ProceduralCases("head", 1).maps(0, grid)
    expected = channels_first(model((projector(geometry, grid) @ maps)[None].movedim(1, -1)))
    correct = None
    if isinstance(geometry, ConeBeam):
        correct = UniformScatter(geometry, model)
        correct.scatter_over_air.fill_(SCATTER_OVER_AIR)
        expected = expected + SCATTER_OVER_AIR * model.air()[:, None, None, None]
    image = MonoenergeticImages(model.materials, VMI_keV).float()
    decompose = MaximumLikelihood(model, bounds_g_cm2=BOX)
    chain = Chain(decompose, fbp(geometry, grid), image, correct).eval()
    return Scanner(chain, fbp_variance(geometry, grid), geometry, grid), expected


@torch.no_grad()
def coverage(beam: str, photons: float, n_draws: int) -> dict[str, float]:
    """Coverage, predicted sd over drawn sd, and bias, of maps and monoenergetic images."""
    scanner, expected = built(beam, photons)
    chain, materials = scanner.chain, scanner.chain.decompose.model.materials
    names = [*materials, *(f"VMI {keV:g} keV" for keV in VMI_keV)]
    clean = chain(expected, until="maps")
    visible = torch.from_numpy(scanner.geometry.visible_in_z(scanner.grid))
    body = (clean.at("maps")[0].sum(0) > BODY_G_CM3) & visible
    truth = values(chain, clean)[:, body]
    generator = torch.Generator().manual_seed(0)
    n = torch.zeros(int(body.sum()), dtype=torch.float64)
    inside, first, second, variance = torch.zeros(4, *truth.shape, dtype=torch.float64)
    for seed in track(range(n_draws), f"{beam}, {photons:g} photons", transient=True):
        scan = chain(draw_counts(expected, generator), until="maps")
        covariance = scanner.noise(scan, seed)
        assert chain.image is not None
        of_maps = covariance.diagonal(dim1=0, dim2=1).movedim(-1, 0).sqrt()
        sd = torch.cat([of_maps, chain.image.sd_hounsfield(covariance)])[:, body]
        error, known = values(chain, scan)[:, body] - truth, sd[0].isfinite()
        sd, error = torch.where(known, sd, 0.0).double(), torch.where(known, error, 0.0).double()
        n, inside = n + known.double(), inside + (known & (error.abs() <= sd)).double()
        first, second, variance = first + error, second + error**2, variance + sd**2
    mean, enough = first / n, n > n_draws / 2
    drawn = (second - n * mean**2) / (n - 1)
    shadow = clean.at("line_integrals")[0].sum(0) > SHADOW_G_CM2
    behind = expected[0][:, shadow].flatten()
    numbers = {
        "counts, median": behind.median().item(),
        "counts, 1 % quantile": behind.sort().values[len(behind) // 100].item(),
        "known %": 100 * (n.sum() / n_draws / len(n)).item(),
    }
    for k, name in enumerate(names):
        squared = (mean[k] ** 2 / drawn[k] - 1 / n)[enough].mean().item()
        numbers |= {
            f"coverage, {name} %": 100 * (inside[k].sum() / n.sum()).item(),
            f"sd, {name}": ((variance[k] / n)[enough].mean() / drawn[k][enough].mean())
            .sqrt()
            .item(),
            f"bias, {name}": math.sqrt(max(squared, 0.0)),
        }
    return numbers


def values(chain: Chain, scan: Scan) -> Tensor:
    """Maps in g/cm³, then images in HU, each (z, y, x)."""
    assert chain.image is not None
    maps = scan.at("maps")
    return torch.cat([maps[0], chain.image.hounsfield(maps)[0]])


@torch.no_grad()
def ray(counts: float, n_rays: int) -> dict[str, float]:
    """Bias over sd of a ray with this mean count per bin, and predicted over drawn sd."""
    model = spectral_model(1.0, "usual").float().requires_grad_(False)
    truth = torch.tensor(RAY_G_CM2)
    photons = counts / model(truth).mean().item()
    decompose = MaximumLikelihood(spectral_model(photons, "usual").float(), bounds_g_cm2=BOX)
    expected = channels_first((photons * model(truth)).expand(1, 1, n_rays, -1))
    drawn = draw_counts(expected, torch.Generator().manual_seed(0))
    x, solved = decompose(drawn)
    lower, upper = torch.tensor(decompose.bounds()).unflatten(1, (2, 1, 1))
    kept = (solved & ((x > lower) & (x < upper)).all(1)).flatten()
    predicted = decompose.covariance(drawn, None, x).flatten(0, 2)[kept].double()
    x = x.flatten(2)[0][:, kept].double()
    sd, variance = x.std(1), predicted.mean(0).diagonal()
    bias = (x.mean(1) - truth) / sd
    numbers = {"solved inside the box %": 100 * kept.double().mean().item()}
    for k, name in enumerate(model.materials):
        numbers |= {
            f"bias, {name}": bias[k].item(),
            f"sd, {name}": (variance[k].sqrt() / sd[k]).item(),
        }
    return numbers


@torch.no_grad()
def correlated(detector: str, n_rays: int, photons: float = 1e6) -> dict[str, float]:
    """Sd of the Poisson estimate from correlated counts, over three predictions of it."""
    response, name, edges_keV = DETECTORS[detector]
    tube = Spectrum(TUBE, {"aluminium": 0.25}, photons_per_pixel=photons)
    materials = ["water", "calcium"]
    model = SpectralModel.from_parts(tube, response(), Thresholds(edges_keV), materials).double()
    A, mu = torch.tensor(RAY_G_CM2).double(), model.attenuation
    S, edges = model.spectra().detach(), model.thresholds.edges_keV.detach()
    mean = model(A).detach()
    together = pair_counts(pairs_of(name), A, edges, model.energies_keV, model.fluence, mu)
    counts = draw_correlated(
        mean.expand(n_rays, -1),
        together.expand(n_rays, -1, -1),
        torch.Generator().manual_seed(0),
    )
    x, _ = decompose(counts, S, mu, bounds=list(zip(*BOX.values(), strict=True)))
    of_counts = torch.diag(mean) + together
    predicted = {
        "Poisson": cramer_rao_bound(A, S, mu),
        "correlated": poisson_estimate_covariance(A, S, mu, of_counts),
        "weighted": correlated_bound(A, S, mu, of_counts),
    }
    image = MonoenergeticImages(materials, VMI_keV).double()

    def sds(covariance: Tensor) -> Tensor:
        return torch.cat([covariance.diagonal().sqrt(), image.sd_hounsfield(covariance)])

    drawn, names = sds(x.mT.cov()), [*materials, *(f"VMI {keV:g} keV" for keV in VMI_keV)]
    numbers = {"variance of all counts / mean": (of_counts.sum() / mean.sum()).item()}
    return numbers | {
        f"{name}: drawn / {kind}": ratio
        for kind, covariance in predicted.items()
        for name, ratio in zip(names, (drawn / sds(covariance)).tolist(), strict=True)
    }


@torch.no_grad()
def cost(beam: str, repeats: int = 5) -> dict[str, float]:
    """Processor time of the parts, in seconds, and the ratio of the noise maps to the rest."""
    scanner, expected = built(beam, 1e6)
    chain, counts = scanner.chain, draw_counts(expected, torch.Generator().manual_seed(0))
    lines = chain(counts, until="line_integrals")
    parts: dict[str, Callable[[], object]] = {
        "decomposition s": lambda: chain(counts, until="line_integrals"),
        "reconstruction s": lambda: chain.resume(lines, until="maps"),
        "noise maps s": lambda: scanner.noise(lines, 0),
    }
    for job in parts.values():
        job()  # compiles
    seconds = {
        name: median(timed(job, "cpu", process_time) for _ in range(repeats))
        for name, job in parts.items()
    }
    decomposition, reconstruction, noise = seconds.values()
    return seconds | {"noise maps / rest": noise / (decomposition + reconstruction)}


def table(kind: str, results: dict[str, dict[str, float]]) -> Table:
    """The numbers of all results of a kind, one column each."""
    chosen = {name: numbers for name, numbers in results.items() if name.startswith(kind)}
    shown = Table("", *(name.split(", ")[1] for name in chosen), title=kind)
    for key in next(iter(chosen.values())):
        shown.add_row(key, *(f"{numbers[key]:.3g}" for numbers in chosen.values()))
    return shown


if __name__ == "__main__":
    main()
