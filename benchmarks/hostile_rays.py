"""Check that decompositions of difficult rays are finite, correctly marked and independent.

Seven kinds of rays (usual, thick, few counts, inconsistent counts, negative second material, more
counts than air, fractions of a photon) and six doses, in float32 and float64, with and without
bounds (a box), with two and three materials. One ray in eight is measured by pixels with shifted
thresholds. A sample of the rays marked converged is minimized again by scipy in float64 from five
starts.

    not finite           answers with NaN or inf
    no information       rays with less than half a photon that are marked converged
    falsely converged    scipy, started at the answer, ends more than 1e-4 g/cm² away, or the answer
                         is not a minimum
    likelier elsewhere   scipy finds another minimum, of lower half deviance, from one of the starts
    neighbors            answers or flags that change when the rays are permuted or split
    far from float64     float32 answers more than 1e-4 g/cm² from the float64 ones, both converged
"""

import argparse
import json
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize
from torch import Tensor

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.polynomial import fit_polynomial
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.response.analytic import Analytic
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.solvers.quadratic import Solution

ROOT = Path(__file__).resolve().parents[1]
TUBE = ROOT / "data/physics/spectra/tungsten_120kV_12deg.csv"
PHOTONS = 1e6
N_PIXELS = 16
FAR_G_CM2 = 1e-4
LEAST_PHOTONS = 0.5


class Setup(NamedTuple):
    """Shared and per-pixel spectra, attenuation, a wide box, and area densities of patients."""

    spectra: Tensor
    pixel_spectra: Tensor
    attenuation: Tensor
    box: list[list[float]]
    usual: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--rays", type=int, default=1_000_000, help="in each of the eight cases")
    parser.add_argument("--checked", type=int, default=5000, help="rays minimized by scipy, in all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results, solutions = {}, {}
    cases = list(product((2, 3), (True, False), (torch.float64, torch.float32)))
    for n_materials, boxed, dtype in cases:
        name = f"{n_materials} materials, {'box' if boxed else 'no box'}, {str(dtype)[6:]}"
        setup = scanner(n_materials)
        batches = hostile_rays(setup, arguments.rays, arguments.seed)
        start = perf_counter()
        solution = solve(batches, setup, boxed, dtype)
        seconds = perf_counter() - start
        solutions[n_materials, boxed, dtype] = solution
        reference = solutions[n_materials, boxed, torch.float64]
        n_checked = arguments.checked // len(cases)
        results[name] = {
            "rays": arguments.rays,
            "seconds": seconds,
            "converged": sum(int(s.converged.sum()) for s in solution),
            "not finite": sum(int((~s.x.isfinite()).any(-1).sum()) for s in solution),
            "no information": no_information(batches, solution),
            **neighbors(batches, setup, boxed, dtype, solution),
            **apart(solution, reference),
            **scipy_check(batches, setup, boxed, solution, n_checked, arguments.seed),
        }
        print(name, results[name], flush=True)
    Console(width=160).print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def scanner(n_materials: int) -> Setup:
    """Deep silicon at 120 kV: 4 bins for water and calcium, 6 with iodine."""
    spectrum = Spectrum(TUBE, {"aluminium": 0.25}, photons_per_pixel=PHOTONS)
    silicon = Analytic("silicon", 6.0, sharing_keV=217.0, sharing_exponent=3.2)
    materials = ["water", "calcium", "iodine"][:n_materials]
    edges = [15.0, 33.0, 45.0, 59.0, 120.0]
    if n_materials == 3:
        edges = [15.0, 25.0, 33.2, 42.0, 50.3, 70.0, 120.0]
    model = SpectralModel.from_parts(spectrum, silicon, Thresholds(edges), materials)
    shift = torch.linspace(-1.5, 1.5, N_PIXELS)[:, None].double()
    pixels = torch.tensor(edges, dtype=torch.float64) + shift
    box = [[-5.0, -7.75, -2.0][:n_materials], [60.0, 15.5, 2.0][:n_materials]]
    usual = torch.tensor([30.0, 3.0, 0.2][:n_materials], dtype=torch.float64)
    # rounded to float32, so that both precisions solve the same problem
    spectra, pixel_spectra, attenuation = (
        t.detach().float().double()
        for t in (model.spectra(), model.spectra(pixels), model.attenuation)
    )
    return Setup(spectra, pixel_spectra.clamp(min=0), attenuation, box, usual)


class Batch(NamedTuple):
    """Rays of one dose: (ray, bin), or (ray, pixel, bin) with the spectra of the pixels."""

    counts: Tensor
    spectra: Tensor


def hostile_rays(setup: Setup, n: int, seed: int) -> list[Batch]:
    """Six doses from 1e2 to 1e7 photons with shared spectra, and 1e5 with spectra per pixel."""
    generator = torch.Generator().manual_seed(seed)
    share = n // 8
    doses = [10.0**k for k in range(2, 8)]
    batches = []
    for i, photons in enumerate(doses):
        spectra = setup.spectra * (photons / PHOTONS)
        size = share if i else n - share * len(doses) - share // N_PIXELS * N_PIXELS
        batches.append(Batch(counts_of(setup, spectra, size, photons, generator), spectra))
    spectra = setup.pixel_spectra * (1e5 / PHOTONS)
    rays = counts_of(
        setup, setup.spectra * (1e5 / PHOTONS), share // N_PIXELS * N_PIXELS, 1e5, generator
    )
    batches.append(Batch(rays.reshape(-1, N_PIXELS, rays.shape[-1]), spectra))
    return [Batch(b.counts.float().double(), b.spectra.float().double()) for b in batches]


def counts_of(
    setup: Setup, spectra: Tensor, n: int, photons: float, generator: torch.Generator
) -> Tensor:
    """Counts of the seven kinds of rays in equal shares, in random order."""
    n_bins, n_materials = spectra.shape[0], len(setup.attenuation)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def measured(A: Tensor) -> Tensor:
        mean = expected_counts(A, spectra, setup.attenuation)
        return draw_counts(mean.clamp(max=20 * spectra.sum(-1)), generator)

    sizes = [len(part) for part in torch.arange(n).tensor_split(7)]
    usual, thick, few, random, negative, bright, fractions = sizes
    sign = torch.ones(n_materials, dtype=torch.float64)
    sign[1] = -0.5
    air = spectra.sum(-1)
    kinds = [
        measured(uniform(usual, n_materials) * setup.usual),
        measured((0.5 + uniform(thick, n_materials)) * setup.usual),
        torch.poisson(3 * uniform(few, n_bins) ** 3, generator=generator),
        (10 ** (uniform(random, n_bins) * 8 - 1)).floor(),
        measured(uniform(negative, n_materials) * setup.usual * sign),
        draw_counts(air * 10 ** (2 * uniform(bright, n_bins)), generator),
        10 ** (13 * uniform(fractions, n_bins) - 12),
    ]
    counts = torch.cat(kinds)
    return counts[torch.randperm(n, generator=generator)]


def solve(batches: list[Batch], setup: Setup, boxed: bool, dtype: torch.dtype) -> list[Solution]:
    """Decompose every batch in the given precision."""
    box = setup.box if boxed else None
    mu = setup.attenuation.to(dtype)
    return [decompose(b.counts.to(dtype), b.spectra.to(dtype), mu, bounds=box) for b in batches]


def neighbors(
    batches: list[Batch], setup: Setup, boxed: bool, dtype: torch.dtype, whole: list[Solution]
) -> dict[str, float]:
    """Numbers of flags and answers that change when rays are permuted and split into pieces."""
    generator = torch.Generator().manual_seed(1)
    flags, moved, largest = 0, 0, 0.0
    for batch, before in zip(batches, whole, strict=True):
        order = torch.randperm(len(batch.counts), generator=generator)
        sizes = [1, 3, 40]
        rest = len(order) - sum(sizes)
        parts = order.split([*sizes, rest // 3, rest - rest // 3]) if rest > 3 else order.split(1)
        for part in parts:
            (again,) = solve([Batch(batch.counts[part], batch.spectra)], setup, boxed, dtype)
            flags += int((again.converged != before.converged[part]).sum())
            both = again.converged & before.converged[part]
            shift = (again.x - before.x[part]).abs().amax(-1)[both]
            moved += int((shift > FAR_G_CM2).sum())
            largest = max(largest, float(shift.max()) if len(shift) else 0.0)
    return {"flags changed": flags, "answers changed": moved, "largest change g/cm2": largest}


def no_information(batches: list[Batch], solutions: list[Solution]) -> int:
    pairs = zip(batches, solutions, strict=True)
    return sum(int((s.converged & (b.counts.sum(-1) < LEAST_PHOTONS)).sum()) for b, s in pairs)


def apart(solutions: list[Solution], reference: list[Solution]) -> dict[str, int]:
    """Numbers of rays whose answer or flag differs from that of float64."""
    far, only, only_reference = 0, 0, 0
    for s, r in zip(solutions, reference, strict=True):
        shift = (s.x.double() - r.x).abs().amax(-1)
        far += int((s.converged & r.converged & (shift > FAR_G_CM2)).sum())
        only += int((s.converged & ~r.converged).sum())
        only_reference += int((~s.converged & r.converged).sum())
    return {
        "far from float64": far,
        "converged in this precision only": only,
        "converged in float64 only": only_reference,
    }


class Ray:
    """Half the deviance of one ray with its gradient and Hessian, in numpy."""

    def __init__(self, counts: Tensor, spectra: Tensor, attenuation: Tensor) -> None:
        self.n, self.S, self.mu = counts.numpy(), spectra.numpy(), attenuation.numpy()
        self.pairs = self.mu[:, None] * self.mu[None]

    def terms(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Expected counts, their derivatives, and the expected photons of each energy."""
        weighted = self.S * np.exp(np.clip(-x @ self.mu, -300, 300))
        mean = np.maximum(weighted.sum(-1), 1e-130)
        return mean, -weighted @ self.mu.T, weighted

    def value(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Half the deviance and its gradient."""
        mean, slope, _ = self.terms(x)
        ratio = np.where(self.n > 0, mean / np.where(self.n > 0, self.n, 1), 1)
        value = np.where(self.n > 0, self.n * (ratio - 1 - np.log(ratio)), mean).sum()
        gradient = (1 - self.n / mean) @ slope
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e300, np.zeros_like(x)
        return float(value), gradient

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """Exact Hessian of half the deviance."""
        mean, slope, weighted = self.terms(x)
        second = np.einsum("be,kme->bkm", weighted, self.pairs)
        outer = slope[:, :, None] * slope[:, None]
        return np.einsum("b,bkm->km", self.n / mean**2, outer) + np.einsum(
            "b,bkm->km", 1 - self.n / mean, second
        )


def scipy_minimum(ray: Ray, start: np.ndarray, box: np.ndarray) -> np.ndarray:
    """L-BFGS-B in units of the curvature, then trust-region Newton in the free unknowns."""
    scale = np.clip(1 / np.sqrt(np.maximum(np.abs(np.diag(ray.hessian(start))), 1e-12)), 1e-6, 10)

    def scaled(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = ray.value(u * scale)
        return value, gradient * scale

    found = minimize(
        scaled,
        start / scale,
        jac=True,
        method="L-BFGS-B",
        bounds=(box / scale[:, None]).tolist(),
        options={"maxiter": 500, "ftol": 1e-14, "gtol": 1e-10},
    )
    return polished(ray, np.clip(found.x * scale, *box.T), box)


def polished(ray: Ray, x: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Trust-region Newton from x among the unknowns that are not held at the sides of the box.

    An unknown on a side is held until the others are at their minimum. Before that, the rounding of
    the others to float32 can turn the sign of its gradient.
    """
    free = np.flatnonzero((x > box[:, 0]) & (x < box[:, 1]))
    for _ in range(len(x) + 2):
        new = inside = x
        if len(free):
            curvature = np.abs(np.diag(ray.hessian(x)))[free]
            new = trust_region(ray, x, free, 1 / np.sqrt(np.maximum(curvature, 1e-12)))
            inside = np.clip(new, *box.T)
            x = inside if ray.value(inside)[0] <= ray.value(x)[0] else x
        before, free = free, free_of(x, ray.value(x)[1], box)
        if (new == inside).all() and np.array_equal(before, free):
            return x
    return x


def trust_region(ray: Ray, x: np.ndarray, free: np.ndarray, scale: np.ndarray) -> np.ndarray:
    def full(u: np.ndarray) -> np.ndarray:
        whole = x.copy()
        whole[free] = u * scale
        return whole

    def scaled(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = ray.value(full(u))
        return value, gradient[free] * scale

    def hessian(u: np.ndarray) -> np.ndarray:
        matrix = ray.hessian(full(u))[np.ix_(free, free)] * np.outer(scale, scale)
        return np.clip(np.nan_to_num(matrix, nan=1e100), -1e100, 1e100)  # scipy rejects inf

    options = {"gtol": 1e-11, "maxiter": 300}
    method, first = "trust-exact", x[free] / scale
    return full(minimize(scaled, first, jac=True, hess=hessian, method=method, options=options).x)


def free_of(x: np.ndarray, gradient: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Indices of the unknowns that are not held at a side of the box by the gradient."""
    held = ((x <= box[:, 0]) & (gradient > 0)) | ((x >= box[:, 1]) & (gradient < 0))
    return np.flatnonzero(~held)


def is_minimum(ray: Ray, x: np.ndarray, box: np.ndarray) -> bool:
    """Whether the Hessian of the free unknowns is positive and the step below 1e-4 g/cm²."""
    gradient = ray.value(x)[1]
    free = free_of(x, gradient, box)
    if not len(free):
        return True
    hessian = ray.hessian(x)[np.ix_(free, free)]
    if not np.isfinite(hessian).all():
        return False
    scale = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-300))
    values, vectors = np.linalg.eigh(hessian * np.outer(scale, scale))
    if not values[0] > 0:
        return False
    step = scale * (vectors @ ((vectors.T @ (scale * gradient[free])) / values))
    return bool(np.abs(step).max() <= FAR_G_CM2)


def scipy_check(
    batches: list[Batch],
    setup: Setup,
    boxed: bool,
    solutions: list[Solution],
    n_checked: int,
    seed: int,
) -> dict[str, float]:
    """Minimize a sample of the converged rays again from five starts."""
    generator = torch.Generator().manual_seed(seed + 1)
    lower, upper = np.array(setup.box)
    box = np.array(setup.box).T
    limits = box if boxed else np.array([[-np.inf, np.inf]] * len(lower))
    false, elsewhere, much_likelier, checked = 0, 0, 0, 0
    random = np.random.default_rng(seed)
    for batch, solution in zip(batches, solutions, strict=True):
        candidates = solution.converged.nonzero()
        chosen = candidates[
            torch.randperm(len(candidates), generator=generator)[: n_checked // len(batches)]
        ]
        polynomial = fit_polynomial(batch.spectra, setup.attenuation)
        start = polynomial.clamped(polynomial(batch.counts, batch.spectra.sum(-1)))
        for place in chosen.unbind():
            at = tuple(place)
            spectra = batch.spectra if batch.spectra.ndim == 2 else batch.spectra[at[1]]
            ray = Ray(batch.counts[at], spectra, setup.attenuation)
            x = solution.x[at].double().numpy()
            local = polished(ray, x, limits)
            checked += 1
            if np.abs(local - x).max() > FAR_G_CM2 or not is_minimum(ray, local, limits):
                false += 1
                print(f"falsely converged: {ray.n.tolist()} at {x.tolist()}, not {local.tolist()}")
            value = ray.value(local)[0]
            others = [
                start[at].numpy(),
                np.zeros(len(x)),
                lower + (upper - lower) * random.random(len(x)),
                local * (0.7 + 0.6 * random.random(len(x))),
            ]
            found = [scipy_minimum(ray, np.clip(s, *limits.T), limits) for s in others]
            gains = [
                value - ray.value(other)[0]
                for other in found
                if np.abs(other - local).max() > 1e-3 and is_minimum(ray, other, limits)
            ]
            gain = max(gains, default=0.0)
            elsewhere += int(gain > 1e-6 + 1e-9 * ray.n.sum())
            much_likelier += int(gain > 0.5)
    return {
        "checked": checked,
        "falsely converged": false,
        "likelier elsewhere": elsewhere,
        "by 0.5 or more": much_likelier,
    }


def table(results: dict[str, dict[str, float]]) -> Table:
    columns = {
        "rays": "rays",
        "seconds": "s",
        "converged": "converged",
        "not finite": "not finite",
        "no information": "no information, converged",
        "flags changed": "flags changed",
        "answers changed": "answers changed",
        "far from float64": "far from float64",
        "checked": "checked",
        "falsely converged": "falsely converged",
        "likelier elsewhere": "likelier elsewhere",
        "by 0.5 or more": "by 0.5",
    }
    shown = Table(title="hostile rays", title_justify="left")
    shown.add_column("case")
    for label in columns.values():
        shown.add_column(label, justify="right")
    for name, numbers in results.items():
        shown.add_row(name, *(f"{numbers[key]:.4g}" for key in columns))
    return shown


if __name__ == "__main__":
    main()
