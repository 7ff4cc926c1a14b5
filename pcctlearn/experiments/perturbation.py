"""Do the derivatives of the decomposition touch the surface that the solver draws?"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood, decompose
from pcctlearn.experiments.context import Context
from pcctlearn.experiments.results import StudyResults
from pcctlearn.physics.attenuation import area_density_g_cm2, thickness_cm
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel

_SMALL = 1e-4  # relative step of the central differences


class Perturbation:
    """Perturb the counts of two bins, then two thresholds, around one point, as the article does.

    The surface is the solver's: every perturbed problem is solved again. The plane is
    A + (dA/dθ) Δθ, with dA/dθ from the implicit layer's backward pass. The tangent error is their
    greatest distance on circles of shrinking radius; a true derivative makes it fall with the
    square. The gradient is also held against central differences with noisy counts, where the
    Fisher matrix in place of the Hessian would show.

    Two bins of deep silicon fold the plane of water and calcium: its lower bin counts high energies
    too, by Compton scattering, and behind 20 cm of water some 1.05 g/cm² of calcium or more give
    the same counts as less. A threshold shift of half a keV crosses that fold from 1.55 g/cm². The
    surface follows the branch of its centre, by starting there, and breaks off at the fold.

    Args:
        model: the scanner, two bins and two materials.
        decomposition: builds the layer for a model.
        thickness_cm: water and calcium, at their reference densities.
        counts_percent, thresholds_keV: half widths of the surfaces.
        n_noisy: noisy draws that the gradient is checked with.
        seed: of the noise.
    """

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
                "perturbation compares the implicit derivative with the solver, and needs "
                f"decomposition=maximum_likelihood, got {type(self.layer).__name__}"
            )
        self.centre = torch.stack(
            [
                area_density_g_cm2(torch.tensor(t, dtype=torch.float64), m)
                for t, m in zip(thickness_cm, model.materials, strict=True)
            ]
        )
        self.counts_percent, self.thresholds_keV = counts_percent, thresholds_keV
        self.n_noisy, self.seed = n_noisy, seed

    def run(self, context: Context) -> StudyResults:
        """Solve, differentiate, compare."""
        names = self.model.materials
        counts = self.model(self.centre).detach()
        edges = self.model.thresholds().detach()
        arrays: dict[str, Tensor] = {}
        orders = []
        kinds: dict[str, Callable[[Tensor], Tensor]] = {
            "counts": lambda percent: self._solve(counts * (1 + percent / 100), edges),
            "thresholds": lambda keV: self._solve(counts, self._shifted(keV)),
        }
        widths = {"counts": self.counts_percent, "thresholds": self.thresholds_keV}
        for kind, solve in kinds.items():
            centre = torch.zeros(2, dtype=torch.float64, requires_grad=True)
            jacobian = _jacobian(solve(centre), centre)
            axis = torch.linspace(-widths[kind], widths[kind], 21, dtype=torch.float64)
            grid = torch.cartesian_prod(axis, axis)
            surface = solve(grid)
            plane = solve(centre.detach()) + grid @ jacobian.mT
            for i, material in enumerate(names):
                shape = (len(axis), len(axis))
                arrays[f"{kind}/surface_{material}_cm"] = self._cm(surface, i).reshape(shape)
                arrays[f"{kind}/plane_{material}_cm"] = self._cm(plane, i).reshape(shape)
            arrays[f"{kind}/axis"] = axis
            radii, errors = self._tangent_errors(solve, jacobian, widths[kind])
            arrays[f"{kind}/radii"], arrays[f"{kind}/tangent_errors"] = radii, errors
            orders.append(torch.log2(errors[:-1] / errors[1:]).mean())
        noisy = self._gradient_errors(counts, edges)
        return StudyResults(
            numbers={
                "tangent_error_order": float(max(orders, key=lambda order: abs(order - 2))),
                "tangent_error_order_counts": float(orders[0]),
                "tangent_error_order_thresholds": float(orders[1]),
                **noisy,
            },
            arrays=arrays,  # type: ignore[arg-type]
            figures=["perturbation.tangent_planes"],
            summary="The derivative of the decomposition is the tangent of what the solver finds.",
        )

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
            start=self.centre.expand(*rays, -1),
        )
        if not bool(solution.converged.all()):
            raise ArithmeticError(
                f"the solver did not converge at thresholds {edges.tolist()} keV: make the "
                "perturbation smaller"
            )
        return solution.x

    def _shifted(self, change: Tensor) -> Tensor:
        """The two lower edges moved; the last carries no information."""
        edges = self.model.thresholds().detach().expand(*change.shape[:-1], -1)
        return torch.cat([edges[..., :2] + change, edges[..., 2:]], -1)

    def _tangent_errors(
        self, solve: Callable[[Tensor], Tensor], jacobian: Tensor, radius: float
    ) -> tuple[Tensor, Tensor]:
        angles = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
        circle = torch.stack([angles.cos(), angles.sin()], -1)
        centre = solve(torch.zeros(2, dtype=torch.float64))
        # a fiftieth of the surface's half width and less: there the square is what is left
        radii = radius / 50 * 0.5 ** torch.arange(5, dtype=torch.float64)
        changes = radii[:, None, None] * circle
        return radii, (solve(changes) - centre - changes @ jacobian.mT).norm(dim=-1).amax(-1)

    def _gradient_errors(self, counts: Tensor, edges: Tensor) -> dict[str, float]:
        """Implicit against central differences of the minimum solved again, with noisy counts."""
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

    def _cm(self, line_integrals: Tensor, i: int) -> Tensor:
        return thickness_cm(line_integrals[..., i], self.model.materials[i])


def _jacobian(outputs: Tensor, inputs: Tensor) -> Tensor:
    """One backward pass for each output."""
    rows = [torch.autograd.grad(one, inputs, retain_graph=True)[0] for one in outputs]
    return torch.stack(rows)
