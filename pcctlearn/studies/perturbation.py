"""Check the implicit derivatives of the decomposition against re-solved, perturbed problems."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood, decompose
from pcctlearn.physics.attenuation import area_density_g_cm2, thickness_cm
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.shapes import Edges

Solve = Callable[[Tensor], Tensor]  # perturbations to line integrals

_SMALL = 1e-4  # relative step of the central differences


class Perturbation:
    """Perturb the counts of two bins, then two thresholds, around one point [1, Fig. 5].

    For the surface, every perturbed problem is solved again. The plane is A + (dA/dθ) Δθ, with
    dA/dθ from the backward pass of the implicit layer. The tangent error is their largest distance
    on circles of shrinking radius; with a correct derivative it falls with the radius squared. The
    gradient is also compared with central differences for noisy counts, where a Fisher matrix in
    place of the Hessian would give a wrong gradient.

    Two bins of deep silicon do not determine water and calcium uniquely. The lower bin also counts
    high energies, by Compton scattering, and behind 20 cm of water two amounts of calcium, below
    and above 1.05 g/cm², give the same counts. A threshold shift of half a keV crosses that fold
    from 1.55 g/cm². The surface starts at its center, follows that branch, and ends at the fold.

    Args:
        model: spectral model with two bins, of water and calcium.
        decomposition: constructor of the decomposition layer for a model.
        thickness_cm: water and calcium, at their reference densities.
        counts_percent, thresholds_keV: half widths of the surfaces.
        n_noisy: number of noisy draws for the check of the gradient.
        seed: seed of the photon noise.
    """

    result_names = (
        "tangent_error_order",
        "tangent_error_order_counts",
        "tangent_error_order_thresholds",
        "gradient_relative_error_counts",
        "gradient_relative_error_thresholds",
    )

    def __init__(
        self,
        model: SpectralModel,
        decomposition: Callable[[SpectralModel], MaximumLikelihood],
        thickness_cm: Sequence[float] = (20.0, 1.0),
        counts_percent: float = 1.0,
        thresholds_keV: float = 2.0,
        n_noisy: int = 16,
        seed: int = 0,
    ) -> None:
        if model.thresholds.n_bins != 2:
            raise ValueError(
                f"the surfaces need two bins, got {model.thresholds.n_bins}: use "
                "physics/thresholds=two_bins"
            )
        model.require_materials(["water", "calcium"])
        self.model, self.layer = model, decomposition(model)
        if not isinstance(self.layer, MaximumLikelihood):
            raise TypeError(
                "perturbation compares the implicit derivative with the solver: use "
                f"decomposition=maximum_likelihood, got {type(self.layer).__name__}"
            )
        self.center = torch.stack(
            [
                area_density_g_cm2(torch.tensor(t, dtype=torch.float64), m)
                for t, m in zip(thickness_cm, model.materials, strict=True)
            ]
        )
        self.counts_percent, self.thresholds_keV = counts_percent, thresholds_keV
        self.n_noisy, self.seed = n_noisy, seed

    def run(self, context: Context) -> StudyResults:
        """Compute counts, re-solve perturbed problems, and compare with the derivatives."""
        return self.report(*self.measure(*self.scan()))

    def scan(self) -> tuple[Tensor, Tensor]:
        """Counts at the center without noise, and the thresholds."""
        return self.model(self.center).detach(), self.model.thresholds().detach()

    def measure(
        self, counts: Float[Tensor, "bin"], edges: Edges
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Surfaces, tangent planes, the order of the tangent error, and errors of the gradient."""
        kinds: dict[str, tuple[Solve, float]] = {
            "counts": (
                lambda percent: self._solve(counts * (1 + percent / 100), edges),
                self.counts_percent,
            ),
            "thresholds": (
                lambda keV: self._solve(counts, self._shifted(keV)),
                self.thresholds_keV,
            ),
        }
        arrays: dict[str, Tensor] = {}
        orders = []
        for kind, (solve, width) in kinds.items():
            center = torch.zeros(2, dtype=torch.float64, requires_grad=True)
            jacobian = _jacobian(solve(center), center)
            surfaces = self._surfaces(solve, jacobian, width)
            radii, errors = self._tangent_errors(solve, jacobian, width)
            kept = {**surfaces, "radii": radii, "tangent_errors": errors}
            arrays |= {f"{kind}/{name}": values for name, values in kept.items()}
            orders.append(float(torch.log2(errors[:-1] / errors[1:]).mean()))
        numbers = {
            "tangent_error_order": max(orders, key=lambda order: abs(order - 2)),
            "tangent_error_order_counts": orders[0],
            "tangent_error_order_thresholds": orders[1],
            **self._gradient_errors(counts, edges),
        }
        return numbers, arrays

    def report(self, numbers: dict[str, float], arrays: dict[str, Tensor]) -> StudyResults:
        """Numbers, arrays and figures of the study."""
        return StudyResults(
            numbers,
            {**arrays},
            ["perturbation.tangent_planes"],
            "Tangent planes from the implicit derivative, compared with re-solved problems.",
        )

    def _surfaces(self, solve: Solve, jacobian: Tensor, width: float) -> dict[str, Tensor]:
        """Thicknesses over a grid of perturbations: re-solved, and from the derivative."""
        axis = torch.linspace(-width, width, 21, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        at_grid = {
            "surface": solve(grid),
            "plane": solve(torch.zeros(2, dtype=torch.float64)) + grid @ jacobian.mT,
        }
        found = {"axis": axis}
        for i, material in enumerate(self.model.materials):
            for name, A in at_grid.items():
                thickness = thickness_cm(A[..., i], material)
                found[f"{name}_{material}_cm"] = thickness.reshape(len(axis), len(axis))
        return found

    def _solve(self, counts: Tensor, edges: Tensor) -> Tensor:
        rays = torch.broadcast_shapes(counts.shape[:-1], edges.shape[:-1])
        counts = counts.expand(*rays, -1)
        spectra = self.model.spectra(edges)
        solution = decompose(
            counts,
            spectra,
            self.model.attenuation,
            solver=self.layer.solver,
            warm_start=self.layer.warm_start,
            adjoint=self.layer.adjoint,
            bounds=self.layer.bounds(),
            start=self.center.expand(*rays, -1),
        )
        if not bool(solution.converged.all()):
            raise ArithmeticError(
                f"the solver did not converge at thresholds {edges.tolist()} keV: make the "
                "perturbation smaller"
            )
        return solution.x

    def _shifted(self, change: Tensor) -> Tensor:
        """Edges with the two lower ones shifted; the upper limit stays."""
        edges = self.model.thresholds().detach().expand(*change.shape[:-1], -1)
        return torch.cat([edges[..., :2] + change, edges[..., 2:]], -1)

    def _tangent_errors(
        self, solve: Solve, jacobian: Tensor, radius: float
    ) -> tuple[Tensor, Tensor]:
        angles = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
        circle = torch.stack([angles.cos(), angles.sin()], -1)
        center = solve(torch.zeros(2, dtype=torch.float64))
        # at most 1/50 of the half width: the quadratic term dominates there
        radii = radius / 50 * 0.5 ** torch.arange(5, dtype=torch.float64)
        changes = radii[:, None, None] * circle
        return radii, (solve(changes) - center - changes @ jacobian.mT).norm(dim=-1).amax(-1)

    def _gradient_errors(self, counts: Tensor, edges: Tensor) -> dict[str, float]:
        """Largest relative errors against central differences of re-solved, noisy problems."""
        generator = torch.Generator().manual_seed(self.seed)
        worst = {"counts": 0.0, "thresholds": 0.0}
        for _ in range(self.n_noisy):
            noisy = draw_counts(counts, generator)
            for kind, base in (("counts", noisy), ("thresholds", edges)):

                def solve(theta: Tensor, kind: str = kind, noisy: Tensor = noisy) -> Tensor:
                    if kind == "counts":
                        return self._solve(theta, edges)
                    return self._solve(noisy, torch.cat([theta[:2], edges[2:]]))

                theta = base.clone().requires_grad_()
                implicit = _jacobian(solve(theta), theta)[:, :2]
                columns = []
                for j in range(2):
                    step = torch.zeros_like(base)
                    step[j] = _SMALL * base[j]
                    columns.append((solve(base + step) - solve(base - step)) / (2 * step[j]))
                differences = torch.stack(columns, -1).detach()
                error = (implicit - differences).norm() / differences.norm()
                worst[kind] = max(worst[kind], float(error))
        return {f"gradient_relative_error_{kind}": value for kind, value in worst.items()}


def _jacobian(outputs: Tensor, inputs: Tensor) -> Tensor:
    """One backward pass for each output."""
    rows = [torch.autograd.grad(one, inputs, retain_graph=True)[0] for one in outputs]
    return torch.stack(rows)
