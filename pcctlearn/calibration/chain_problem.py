"""The loss of a known phantom through the chain, in the unknowns of pixels and of the detector."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.detector_rays import DetectorRays
from pcctlearn.calibration.layer_problem import KnownRays, LayerProblem, Unknowns
from pcctlearn.calibration.plate_counts import PlateModel
from pcctlearn.calibration.shared_unknowns import SharedUnknowns, Vector
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.solvers.arrow import Arrow, ArrowEquations


class ChainProblem:
    """Σ_m (A*_m − A_m)ᵀ I_m (A*_m − A_m) + Σ_m Σ_b (ȳ_b(A*_m) − c_b)²/ȳ_b over all rays m.

    c are the counts corrected for pile-up and scatter, A* is their decomposition with the spectra
    of the pixels, A the known area densities and I the Fisher information: the stages of ``Chain``
    one after the other. Both terms together hold all information of the counts, up to the noise of
    what the corrections add to them.

    Args:
        rays: what was measured.
        model: the nominal pixel.
        basis: materials of the area densities.
        nominal_keV: nominal thresholds; none of them is fixed.
        unknowns: shared by the pixels.
        start: of the shared unknowns.
        weighted_at: unknowns of the pixels whose expected counts give the weights I and 1/ȳ; by
            default those of nominal pixels.
    """

    def __init__(
        self,
        rays: DetectorRays,
        model: PlateModel,
        basis: Sequence[str],
        nominal_keV: Float[Tensor, "threshold"],
        unknowns: SharedUnknowns,
        start: Vector,
        weighted_at: Unknowns | None = None,
    ) -> None:
        self.unknowns, self.parts = unknowns, []
        pixels_per_block = max(1, 100_000 // rays.registered.shape[1])
        for pixels in torch.arange(len(rays.registered)).split(pixels_per_block):
            block = rays.of(pixels)
            counts = block.n_views[:, None] * above_from_bins(block.corrected(start, unknowns)[0])
            known = KnownRays(counts, block.area_g_cm2.movedim(0, 1), block.n_views)
            at = None if weighted_at is None else weighted_at[pixels]
            layer = LayerProblem(known, model, basis, nominal_keV, None, 0, True, at)
            self.parts.append((pixels, block, layer))

    def equations(self, x: Unknowns, shared: Vector) -> ArrowEquations:
        """Jᵀr and JᵀJ at x = (ln k, thickness, T), with the exact derivatives of the chain."""
        parts = []
        for pixels, block, layer in self.parts:
            counts, slopes = block.corrected(shared, self.unknowns)
            changes = [slope.movedim(0, 1) for slope in slopes.unbind(-1)]
            at = torch.cat([x[pixels, :1] - layer.scale.log(), x[pixels, 1:]], 1)
            value, J = layer.of_counts(counts.movedim(0, 1)).rows(at, changes)
            local, by_shared = J.split([x.shape[1], len(changes)], -1)
            gradient = (J.mT @ value[..., None])[..., 0]
            of_shared = gradient[:, x.shape[1] :].sum(0)
            parts.append(
                (
                    gradient[:, : x.shape[1]],
                    of_shared,
                    *Arrow.of(local, by_shared),
                    value.square().sum(-1),
                )
            )
        g, totals, blocks, border, corner, chi2 = zip(*parts, strict=True)
        arrow = Arrow(torch.cat(blocks), torch.cat(border), torch.stack(corner).sum(0))
        total = torch.stack(totals).sum(0)
        return ArrowEquations(torch.cat(g), total, arrow, torch.cat(chi2), shared.new_zeros(()))
