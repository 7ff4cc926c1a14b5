"""Covariance of the counts that are decomposed, carried from the photons that were counted."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.response.pairs import Pairs, pair_counts
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Counts, LineIntegrals, channels_last

CountCovariance = Float[Tensor, "batch view *pixel bin bin"]
_STEP = 0.01  # relative


def count_covariance(
    prepare: Callable[[Counts], Counts],
    counts: Counts,
    generator: torch.Generator,
    together: CountCovariance | None = None,
) -> CountCovariance:
    """J (diag n + Λ) Jᵀ for counts n and prepared counts c(n), with J = ∂c/∂n of each ray.

    A correction for pile-up changes the counts of a ray by those counts alone. A correction of
    scatter also depends on the counts of many other rays, smoothly: its estimate hardly changes
    with the noise of one of them. All rays are therefore changed at once, each by a random sign, so
    that what other rays contribute averages out; one evaluation of ``prepare`` for each bin gives
    J. The noise of the scatter estimate itself, which neighbouring rays share, is left out.

    Args:
        prepare: counts as they were measured to counts as they are decomposed.
        counts: n, measured; NaN where there are none.
        generator: of the signs.
        together: Λ, what photons that are counted more than once add; by default counts are
            Poisson.
    """
    prepared, columns = prepare(counts), []
    for b in range(counts.shape[1]):
        n = counts[:, b]
        sign = torch.randint(0, 2, n.shape, generator=generator).to(n) * 2 - 1
        step = _STEP * n.clamp(min=1)
        step = torch.where(n < step, step, sign * step)  # counts are not negative
        moved = counts.clone()
        moved[:, b] += step
        change = prepare(moved) - prepared
        columns.append(channels_last(change / (moved[:, b] - n)[:, None]))
    J = torch.stack(columns, -1)
    return J @ _of_measured(counts, together) @ J.mT


def scaled_covariance(
    gain: Float[Tensor, "bin #view *#pixel"],
    counts: Counts,
    together: CountCovariance | None = None,
) -> CountCovariance:
    """g_b g_c (δ_bc n_b + Λ_bc), for counts that are only multiplied by a gain g."""
    g = channels_last(gain[None])
    return g[..., None] * _of_measured(counts, together) * g[..., None, :]


def counted_together(
    pairs: Pairs,
    model: SpectralModel,
    line_integrals: LineIntegrals,
    per_expected: Counts,
) -> CountCovariance:
    """Λ_bc(A) √(r_b r_c) of the measured counts, view by view.

    Λ is that of the nominal thresholds and the mean fluence of the pixels (``pair_counts``).

    Args:
        pairs: of the detector.
        model: of the decomposition.
        line_integrals: A, estimated.
        per_expected: r, measured counts per expected count of the model, scatter included.
    """
    edges, fluence = model.thresholds.edges_keV.detach(), model.fluence
    edges = edges.reshape(-1, edges.shape[-1]).mean(0)
    fluence = fluence.reshape(-1, fluence.shape[-1]).mean(0)
    rays, root = channels_last(line_integrals), channels_last(per_expected).sqrt()
    views = [
        pair_counts(pairs, view, edges, model.energies_keV, fluence, model.attenuation)
        for view in rays.unbind(1)
    ]
    return root[..., None] * torch.stack(views, 1) * root[..., None, :]


def _of_measured(counts: Counts, together: CountCovariance | None) -> CountCovariance:
    poisson = torch.diag_embed(channels_last(counts))
    return poisson if together is None else poisson + together
