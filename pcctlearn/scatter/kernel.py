"""Scatter correction by superposition of scatter kernels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scan import Scan
from pcctlearn.scatter.base import ScatterCorrection
from pcctlearn.scatter.kernel_parameters import KERNEL, KernelParameters
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import point_source_flux
from pcctlearn.validation import require_positive

HIGHEST_FRACTION = 0.95  # largest scatter over counts
_LEAST_TRANSMISSION = 1e-6
_SMALL_DEPTH = 1e-3  # ε in L^β ≈ L (L + ε)^(β − 1), whose slope is finite at L = 0
_BLEND_cm = 2.0  # thickness of water over which one group passes into the next
_SHADOW_cm = 2.0  # thickness of water that belongs to the shadow of the object
_MOST_ITERATIONS = 1000

Panels = Float[Tensor, "batch view row column"]
PanelCounts = Float[Tensor, "batch bin view row column"]


class KernelScatter(ScatterCorrection):
    """Scatter over counts, by scatter-kernel superposition in every energy bin.

    Counts are relative to air in the following. With the primary P of the highest bin, L = −ln P
    and t = L / μ_water, the scatter of bin b behind water is

        S_b = (1 − γ t) Σ_i (P R_i c_bi) ⊗ g_bi + γ Σ_i (t P R_i c_bi) ⊗ g_bi,
        c_bi = A_bi w P^α_bi L^β_bi,   g_bi = exp(−r²/2σ1²) + B exp(−r²/2σ2²),

    with the share R_i(t) of thickness group i. w falls to ``edge_weight`` at the edges of the
    object, where scatter escapes through the side. P follows from the counts I by the fixed-point
    iteration S ← S + λ (S_high(I − S) − S), with S ≤ 0.95 I and P = I − S. The highest bin is used
    for all bins, because photons scatter from it into the lower ones. The scatter-to-primary ratio
    of bin b is that of the water equivalent to the highest bin: S_b over the primary T_b(L) of
    water. Bone lowers both alike, and the noise of the lower bins has no effect.

    J. Sun and J. Star-Lack, "Improved scatter correction using adaptive scatter kernel
    superposition", Phys. Med. Biol. 55 (2010) 6695. doi:10.1088/0031-9155/55/22/007. Different here
    are: the highest bin is used for all; groups blend over 2 cm; the form of w.

    Args:
        geometry, model: the scanner: pixels and offsets of the panel, and air.
        parameters: kernels from ``fit_kernels`` or ``KernelParameters.load``, or the result of
            ``KernelParameters.plain``.
        grid_transmission: factor on all amplitudes, one number or one per bin: the fraction of
            scatter that an anti-scatter grid transmits. ``fit`` sets it.
        gamma_per_cm: γ; 0 for symmetric kernels. The defaults of γ, edge_weight and edge_cm were
            chosen with simulated heads and water cylinders of 12 to 20 cm.
        edge_weight, edge_cm: w at a straight edge, and the σ of its neighbourhood on the panel.
        n_iterations, relaxation: number of fixed-point iterations, and λ.
    """

    title = "Pencil-beam kernels"
    amplitude_per_cm2: Tensor
    alpha: Tensor
    beta: Tensor
    sigma1_cm: Tensor
    share: Tensor
    sigma2_cm: Tensor
    water_rates: Tensor
    water_weights: Tensor
    borders_cm: Tensor
    air: Tensor
    grid_transmission: Tensor

    def __init__(
        self,
        geometry: ConeBeam,
        model: SpectralModel,
        parameters: KernelParameters | Mapping[str, Any],
        grid_transmission: float | Sequence[float] = 1.0,
        gamma_per_cm: float = 0.02,
        edge_weight: float = 0.7,
        edge_cm: float = 4.0,
        n_iterations: int = 8,
        relaxation: float = 0.7,
    ) -> None:
        if not isinstance(parameters, KernelParameters):
            parameters = KernelParameters.from_plain(parameters)
        settings = {
            "gamma_per_cm": gamma_per_cm,
            "edge_weight": edge_weight,
            "edge_cm": edge_cm,
            "n_iterations": n_iterations,
            "relaxation": relaxation,
        }
        super().__init__(parameters=parameters.plain(), **settings)
        n_bins = parameters.n_bins
        air = model.air().detach().double().movedim(-1, 0)
        if len(air) != n_bins or air.ndim not in (1, 3):
            raise ValueError(
                f"air must be (bin) or (bin, row, column) with the {n_bins} bins of the scatter "
                f"kernels, got {tuple(air.shape)}: fit the kernels with the thresholds of this "
                "scanner"
            )
        if not (air.isfinite().all() and air.min() > 0):
            raise ValueError(
                "air must be positive and finite in every bin and pixel: fill in dead pixels first"
            )
        factor = torch.as_tensor(grid_transmission, dtype=torch.float64)
        if factor.shape not in ((), (n_bins,)) or not (factor.isfinite() & (factor >= 0)).all():
            raise ValueError(
                f"grid_transmission must be a number ≥ 0, or {n_bins} of them, got "
                f"{grid_transmission}"
            )
        require_positive(edge_cm=edge_cm)
        if not (0 <= edge_weight <= 1 and gamma_per_cm >= 0):
            raise ValueError(
                f"edge_weight must lie in 0 … 1 and gamma_per_cm be 0 or more, got "
                f"{edge_weight:g} and {gamma_per_cm:g}"
            )
        if not 1 <= n_iterations <= _MOST_ITERATIONS or not 0 < relaxation <= 1:
            raise ValueError(
                f"n_iterations must lie in 1 … {_MOST_ITERATIONS} and relaxation in 0 … 1, got "
                f"{n_iterations} and {relaxation:g}"
            )
        for name in (*KERNEL[:-1], "water_rates", "water_weights"):
            self.register_buffer(name, getattr(parameters, name).clone())
        self.register_buffer("borders_cm", torch.tensor(parameters.borders_cm, dtype=torch.float64))
        air = air[:, None, None, None] if air.ndim == 1 else air[:, None]
        self.register_buffer("air", air, persistent=False)
        self.register_buffer("grid_transmission", factor.expand(n_bins).clone())
        self.water_per_cm = parameters.water_per_cm
        self.source_to_detector_cm = parameters.source_to_detector_cm
        self.pixel_cm = (geometry.row_cm, geometry.column_cm)
        self.offset_cm = (geometry.row_offset_cm, geometry.offset_cm)
        self.gamma_per_cm, self.edge_weight, self.edge_cm = gamma_per_cm, edge_weight, edge_cm
        self.n_iterations, self.relaxation = n_iterations, relaxation

    def forward(self, counts: PanelCounts) -> PanelCounts:
        """Scattered fraction of the counts, in [0, 0.95].

        Raises:
            ValueError: counts that are not finite, negative, or of other bins or pixels.
        """
        self._check(counts)
        spr = self.spr(self._primary(counts[:, -1] / self.air[-1].to(counts)))
        return (spr / (1 + spr)).clamp(max=HIGHEST_FRACTION)

    def spr(self, primary: Panels) -> PanelCounts:
        """Scatter over primary in each bin, from the primary of the highest bin over air."""
        scatter = [self._scatter(primary, number) for number in range(len(self.alpha))]
        return torch.stack(scatter, 1) / self._water(primary)

    @torch.no_grad()
    def fit(
        self, scans: Sequence[Scan], fit_by_gradient: Callable[[], dict[str, float]]
    ) -> dict[str, float]:
        """Fit grid_transmission to scans of known scatter.

        a_b = Σ f f̂ / Σ f̂², by least squares of f ≈ a f̂ over all rays. f is the scatter fraction
        and f̂ its prediction from the true primary with a factor of one.
        """
        self.grid_transmission.fill_(1)
        both, squares = torch.zeros(2, len(self.alpha), dtype=torch.float64)
        for scan in scans:
            counts, fraction = scan.at("counts"), scan.at("scatter_fraction")
            self._check(counts)
            if fraction.shape != counts.shape or not (fraction <= 1).all():
                raise ValueError(
                    f"scatter_fraction must have the counts' shape {tuple(counts.shape)} and not "
                    f"exceed 1, got {tuple(fraction.shape)} and {fraction.max():.3g}: it is the "
                    "scatter divided by the counts"
                )
            scatter = counts * fraction
            primary = (counts - scatter).clamp(min=0)
            expected = self.spr(primary[:, -1] / self.air[-1].to(counts)) * primary
            lit = primary > 0
            truth, guess = (torch.where(lit, x / counts, 0.0) for x in (scatter, expected))
            both += (truth * guess).double().sum((0, 2, 3, 4)).cpu()
            squares += guess.square().double().sum((0, 2, 3, 4)).cpu()
        if not (squares > 0).all():
            raise ValueError(
                "the counts show no object, so there is nothing to fit: give scans of an object, "
                "with the air counts of the same scanner"
            )
        self.grid_transmission.copy_(both / squares)
        fitted = self.grid_transmission.tolist()
        return {f"grid_transmission_bin_{b}": factor for b, factor in enumerate(fitted, 1)}

    def _primary(self, relative: Panels) -> Panels:
        """The highest bin's primary: the fixed point of I − S(I − S)."""
        scatter = torch.zeros_like(relative)
        for _ in range(self.n_iterations):
            estimate = self._scatter(relative - scatter, -1)
            scatter = scatter + self.relaxation * (estimate - scatter)
            scatter = torch.minimum(scatter, HIGHEST_FRACTION * relative)
        return relative - scatter

    def _scatter(self, primary: Panels, number: int) -> Panels:
        """S_b behind water, relative to the open beam of bin b at the same pixel."""
        rows, columns = self._positions_cm(primary)
        # the fluence decreases towards the edges of a panel, unlike counts relative to air
        flux = point_source_flux(rows, columns, self.source_to_detector_cm)
        depth = _depth(primary)
        thickness = depth / self.water_per_cm
        lit = primary * flux * self._edges(thickness, rows, columns)
        symmetric, skewed = torch.zeros_like(primary), torch.zeros_like(primary)
        for i, group in enumerate(self._groups(thickness)):
            amplitude, alpha, beta, sigma1, share, sigma2 = (
                getattr(self, name)[number, i].to(primary) for name in KERNEL[:-1]
            )
            power = depth * (depth + _SMALL_DEPTH) ** (beta - 1)
            source = lit * group * amplitude * torch.exp(-alpha * depth) * power
            for weight, sigma in ((1.0, sigma1), (share, sigma2)):
                # a Gaussian is separable: two matrix products, which do not wrap around
                down, across = (
                    _gaussian(positions, sigma) * size
                    for positions, size in zip((rows, columns), self.pixel_cm, strict=True)
                )
                symmetric = symmetric + weight * (down @ source @ across)
                if self.gamma_per_cm:
                    skewed = skewed + weight * (down @ (thickness * source) @ across)
        gamma = self.gamma_per_cm
        scatter = (1 - gamma * thickness).clamp(min=0) * symmetric + gamma * skewed
        return scatter / flux * self.grid_transmission[number].to(primary)

    def _groups(self, thickness_cm: Panels) -> list[Panels]:
        """R_i: shares of the groups; they sum to one."""
        passed = [
            ((thickness_cm - border) / _BLEND_cm + 0.5).clamp(0, 1)
            for border in self.borders_cm.to(thickness_cm)
        ]
        lower = [torch.ones_like(thickness_cm), *passed]
        upper = [*passed, torch.zeros_like(thickness_cm)]
        return [a - b for a, b in zip(lower, upper, strict=True)]

    def _edges(self, thickness_cm: Panels, rows: Tensor, columns: Tensor) -> Panels:
        """Edge weight: 1 well inside the shadow, falling to edge_weight at its edge.

        It is edge_weight where at most half of the neighbourhood is shadowed. The shadow is assumed
        to continue beyond the panel.
        """
        shadow = 1 - torch.exp(-thickness_cm / _SHADOW_cm)
        down, across = (_gaussian(positions, self.edge_cm) for positions in (rows, columns))
        near = down @ shadow @ across / (down.sum(1)[:, None] * across.sum(1))
        return self.edge_weight + (1 - self.edge_weight) * (2 * near - 1).clamp(0, 1)

    def _water(self, primary: Panels) -> PanelCounts:
        """T_b behind the depth of water in the highest bin."""
        depth = _depth(primary)[:, None]
        rates, weights = self.water_rates.to(depth), self.water_weights.to(depth)
        total = torch.zeros_like(depth)
        for rate, weight in zip(rates, weights.T, strict=True):
            total = total + weight[:, None, None, None] * torch.exp(-rate * depth)
        return total

    def _positions_cm(self, panels: Panels) -> tuple[Tensor, Tensor]:
        """Positions of rows and columns, from the central ray."""
        rows, columns = (
            (torch.arange(n, device=panels.device).to(panels) - (n - 1) / 2) * size + offset
            for n, size, offset in zip(
                panels.shape[-2:], self.pixel_cm, self.offset_cm, strict=True
            )
        )
        return rows, columns

    def _check(self, counts: PanelCounts) -> None:
        n_bins, pixels = len(self.alpha), self.air.shape[-2:]
        if counts.shape[1] != n_bins or (pixels != (1, 1) and counts.shape[-2:] != pixels):
            wanted = "any panel" if pixels == (1, 1) else f"a panel of {tuple(pixels)}"
            raise ValueError(
                f"counts must be (batch, bin, view, row, column) with {n_bins} bins and {wanted}, "
                f"as the kernels and the air counts, got {tuple(counts.shape)}"
            )
        if not (counts.isfinite() & (counts >= 0)).all():
            n_wrong = int((~(counts.isfinite() & (counts >= 0))).sum())
            raise ValueError(
                f"counts must be finite and not negative, but {n_wrong} are not: fill in dead "
                "pixels from their neighbours before the scatter correction"
            )


def _depth(primary: Panels) -> Panels:
    """L = −ln P, not negative."""
    return -primary.clamp(_LEAST_TRANSMISSION, 1).log()


def _gaussian(positions_cm: Float[Tensor, "n"], sigma_cm: Tensor | float) -> Float[Tensor, "n n"]:
    """exp(−(x − x')²/2σ²)."""
    return torch.exp(-0.5 * ((positions_cm[:, None] - positions_cm) / sigma_cm) ** 2)
