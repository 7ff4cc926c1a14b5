"""Time of decompositions at one accuracy, and memory of their derivatives."""

import copy
import logging
from collections.abc import Callable, Sequence
from math import inf

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.adapters import Peer, optimistix_newton, rtk_simplex, scipy_minimize
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood, decompose
from pcctlearn.decomposition.minima import WARM_START
from pcctlearn.decomposition.polynomial import fit_polynomial
from pcctlearn.decomposition.proxy import ProxyDecomposition
from pcctlearn.figures.arrays import as_array
from pcctlearn.metrics.errors import rms
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.physics.noise import draw_counts, generator_of
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.shapes import Counts, RayCounts, channels_first, channels_last
from pcctlearn.solvers.nelder_mead import NelderMead
from pcctlearn.solvers.quadratic import Solution
from pcctlearn.studies.adjoint_memory import memory_mb
from pcctlearn.studies.cost_tables import ADJOINTS, Costs, memory_table, with_epochs
from pcctlearn.studies.layer_speed import Timed, of_layer, rays_per_second, untrained_proxy
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

Numbers = dict[str, float]

_N_JUDGED = 20_000  # rays that are compared with double precision
_N_TIMED = {"nelder_mead": 10_000, "newton": 100_000, "proxy": 200_000}  # of others all rays
_ACCURATE_g_cm2 = 1e-2  # 0.1 mm of water, far below the noise of a ray
_N_MEMORY = 100 * 100  # [1, Fig. 12]
_PEERS = {  # and the number of their rays
    "scipy": (scipy_minimize.prepare, 500),
    "rtk": (rtk_simplex.prepare, 4000),
    "optimistix": (optimistix_newton.prepare, 20_000),
}


class DecompositionCost:
    """Time and accuracy of methods of decomposition [1, Table III], and memory [1, Fig. 12].

    The rays are the pixels of a head in a cone beam, with photon noise. Every method is compared
    with the default decomposition in double precision on the same rays, and times are medians of
    methods that take turns. Layers include the checks of their inputs. Libraries that are not
    installed are left out, and methods on a GPU where there is none.

    An epoch of [1] has 188.7 million rays. Its seconds include the training of the network; here
    they are those of the decomposition and its gradient in the counts alone.

    Args:
        model: the scanner.
        decomposition: constructor of the exact layer.
        geometry: the views.
        phantom: the object.
        proxy: file of a trained proxy, ``proxy.pt``. ``None`` times an untrained network, whose
            speed is the same and whose errors are not reported.
        widths: numbers of units of the hidden layers of the untrained network.
        n_steps: numbers of Newton steps for the memory.
        n_repeats: of all methods except Nelder–Mead, which runs once.
        seed: seed of the photon noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        decomposition: Callable[..., Decomposition],
        geometry: ConeBeam,
        phantom: EllipsoidPhantom,
        proxy: str | None = None,
        widths: Sequence[int] = (48, 48, 48),
        n_steps: Sequence[int] = (5, 10, 20, 50),
        n_repeats: int = 5,
        seed: int = 0,
    ) -> None:
        require_positive(n_repeats=n_repeats)
        if len(n_steps) < 2 or sorted(set(n_steps)) != list(n_steps) or n_steps[0] < 1:
            raise ValueError(
                f"n_steps must be two or more numbers that increase, got {list(n_steps)}: use "
                "study.n_steps=[5,10,20,50]"
            )
        model.require_materials(["water", "calcium"])
        self.model = model.requires_grad_(False)  # a gradient in the counts alone
        exact = decomposition(model)
        if not isinstance(exact, MaximumLikelihood):
            raise TypeError(
                "decomposition_cost compares solvers of the maximum-likelihood decomposition: use "
                f"decomposition=maximum_likelihood, got {type(exact).__name__}"
            )
        self.layers: dict[str, Decomposition] = {
            "nelder_mead": decomposition(model, solver=NelderMead(), warm_start=()),
            "newton": decomposition(model, warm_start=WARM_START),
            "proxy": _proxy(model, proxy, widths),
            "exact": exact,
        }
        if torch.cuda.is_available():
            self.layers |= {
                f"{name}_cuda": copy.deepcopy(self.layers[name]).to("cuda")
                for name in ("newton", "proxy", "exact")
            }
        self.bounds, self.untrained = exact.bounds(), proxy is None
        self.geometry, self.phantom = geometry, phantom
        self.n_steps, self.n_repeats, self.seed = list(n_steps), n_repeats, seed

    def run(self, context: Context) -> StudyResults:
        """Draw the counts, and measure errors, times and memory."""
        counts = self.scan()
        log.info("%d rays; peers, then errors, times and memory", len(counts))
        peers = self.peers(counts)
        numbers = {
            "n_rays": float(len(counts)),
            "n_threads": float(torch.get_num_threads()),
            **self.errors(counts, peers),
            **with_epochs(self.speeds(counts, peers)),
            **self.memory(counts),
        }
        return self.report(numbers)

    def scan(self) -> RayCounts:
        """Noisy counts (ray, bin) of all pixels and views, float32."""
        A = self.phantom.line_integrals(*self.geometry.rays()).movedim(0, -1)
        expected = [self.model(view.flatten(0, -2)).detach() for view in A]  # one saves memory
        generator = generator_of(self.seed, "decomposition cost")
        return draw_counts(torch.cat(expected), generator).float()

    def peers(self, counts: RayCounts) -> dict[str, tuple[Peer, RayCounts]]:
        """Installed libraries, ready to run, and their rays."""
        S, mu = self.model.spectra().double(), self.model.attenuation.double()
        polynomial = fit_polynomial(S, mu)  # the first iterate of all, as that of ``decompose``
        found = {}
        for name, (prepare, n_rays) in _PEERS.items():
            rays = _spread(counts, n_rays)
            start = polynomial.clamped(polynomial(rays.double(), S.sum(-1)))
            try:
                found[name] = prepare(rays, S, mu, start), rays
            except ImportError as error:
                log.info("left out: %s", error)
        return found

    def errors(self, counts: RayCounts, peers: dict[str, tuple[Peer, RayCounts]]) -> Numbers:
        """Differences from double precision."""
        numbers: Numbers = {}
        judged = _spread(counts, _N_JUDGED)
        exact = self._exact(judged)
        for name, layer in self.layers.items():
            if self.untrained and name.startswith("proxy"):
                continue
            with torch.no_grad():
                x, solved = layer(_as_view(judged, layer))
            x = channels_last(x).flatten(0, -2)
            numbers |= _error(name, exact, Solution(x.cpu(), solved.flatten().cpu()))
        for name, (peer, rays) in peers.items():
            x = peer.forward().double()
            numbers |= _error(name, self._exact(rays), Solution(x, x.isfinite().all(-1)))
        return numbers

    def _exact(self, counts: RayCounts) -> Solution:
        """The default decomposition in double precision."""
        S, mu = self.model.spectra().double(), self.model.attenuation.double()
        return decompose(counts.double(), S, mu, bounds=self.bounds)

    def speeds(self, counts: RayCounts, peers: dict[str, tuple[Peer, RayCounts]]) -> Numbers:
        """Rays per second of all methods in turns."""
        methods = {
            name: Timed(*peer, len(rays), self.n_repeats) for name, (peer, rays) in peers.items()
        }
        for name, layer in self.layers.items():
            rays = _as_view(_spread(counts, _N_TIMED.get(name, len(counts))), layer)
            methods[name] = of_layer(layer, rays, 1 if name == "nelder_mead" else self.n_repeats)
        return rays_per_second(methods)

    def memory(self, counts: RayCounts) -> Numbers:
        """Peak memory of both derivatives for each number of steps, and of the exact layer (MB)."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        rays, spectra, mu = _spread(counts, _N_MEMORY), self.model.spectra(), self.model.attenuation
        n, S, mu = rays.float(), spectra.float(), mu.float()
        polynomial = fit_polynomial(S, mu)
        start = polynomial.clamped(polynomial(n, S.sum(-1)))
        limits = self.bounds or [[-inf, -inf], [inf, inf]]
        n, S, mu, start = (t.to(device) for t in (n, S, mu, start))
        numbers = {"exact_memory_mb": memory_mb("exact", 1, n, S, mu, start, limits)}
        for kind in ADJOINTS:
            sizes = [memory_mb(kind, k, n, S, mu, start, limits) for k in self.n_steps]
            for k, size in zip(self.n_steps, sizes, strict=True):
                numbers[f"{kind}_memory_mb_{k}_steps"] = size
            numbers[f"{kind}_memory_growth_percent"] = 100 * (max(sizes) / min(sizes) - 1)
        return numbers

    def report(self, numbers: Numbers) -> StudyResults:
        """Numbers, arrays for the figure, and two tables."""
        costs = Costs(numbers, self.untrained)
        sizes = {
            kind: [numbers[f"{kind}_memory_mb_{k}_steps"] for k in self.n_steps]
            for kind in ADJOINTS
        }
        arrays: dict[str, Tensor | np.ndarray] = {
            "cost/labels": as_array([method.label for method in costs.methods.values()]),
            "cost/epoch_seconds": costs.epoch_seconds(),
            "cost/article_epoch_seconds": costs.of_the_article(),
            "memory/n_steps": torch.tensor(self.n_steps),
            "memory/exact_mb": torch.tensor([numbers["exact_memory_mb"]]),
            **{f"memory/{kind}_mb": torch.tensor(size) for kind, size in sizes.items()},
        }
        in_tables = (
            "_rays_per_second",
            "_epoch_seconds",
            "_rms_error_g_cm2",
            "_steps",
            "_accurate_percent",
        )
        return StudyResults(
            numbers,
            arrays,
            ["decomposition_cost.cost_and_memory"],
            f"{numbers['n_rays']:.0f} rays of a head with {self.model.thresholds.n_bins} bins, "
            f"{len(self.model.energies_keV)} energies and 2 materials, float32. Errors are "
            "differences from the same decomposition in double precision.",
            tables=[
                costs.table(numbers["n_threads"]),
                memory_table(numbers, self.n_steps, _N_MEMORY),
            ],
            tabulated=[key for key in numbers if key.endswith(in_tables)],
        )


def _proxy(model: SpectralModel, path: str | None, widths: Sequence[int]) -> ProxyDecomposition:
    if path is None:
        return untrained_proxy(model, widths)
    return ProxyDecomposition(model, path, "study.proxy")


def _error(name: str, exact: Solution, found: Solution) -> Numbers:
    """Errors over the rays that are solved here and in double precision, and shares of rays.

    A layer says which rays it has solved. Other libraries do not: of theirs, finite ones count.
    Rays are accurate if they are solved and all materials agree within 0.01 g/cm², of the rays
    that are solved in double precision.
    """
    difference = found.x.double() - exact.x
    both = exact.converged & found.converged
    accurate = both & (difference.abs() <= _ACCURATE_g_cm2).all(-1)
    return {
        f"{name}_rms_error_g_cm2": rms(difference[both]),
        f"{name}_largest_error_g_cm2": float(difference[both].abs().max()),
        f"{name}_solved_percent": 100 * float(found.converged.double().mean()),
        f"{name}_accurate_percent": 100 * float(accurate.sum() / exact.converged.sum()),
    }


def _spread(counts: RayCounts, n: int) -> Float[Tensor, "some bin"]:
    """n rays or fewer, evenly spaced."""
    return counts[:: max(1, -(-len(counts) // n))]


def _as_view(counts: RayCounts, layer: Decomposition) -> Counts:
    """(1, bin, 1, ray) on the device of the layer."""
    return channels_first(counts[None, None]).to(layer.model.attenuation.device)
