"""How much the reference threshold differs between pixels, from all pixels together."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

FEWEST_PIXELS = 30

Scatter = Float[Tensor, "threshold threshold"]


def reference_scatter(
    estimates_keV: Float[Tensor, "pixel threshold"],
    covariance: Float[Tensor, "pixel threshold threshold"],
) -> Scatter | None:
    """Covariance Σ of the true thresholds over the pixels, where the lowest one takes part in it.

    The counts of one pixel hardly tell a bias of the lowest threshold from skew, but those of all
    pixels tell how much it scatters, and how it follows the other thresholds, as it does where the
    energy scales of the pixels differ [2, eq. 11]. Estimates t of covariance C = L Lᵀ have normal
    z = L⁻¹(t − t̄) of covariance S = L⁻¹ Σ L⁻ᵀ + 1. Σ is that of the greatest likelihood: the
    eigenvalues of S less one [M. E. Tipping, C. M. Bishop, J. R. Stat. Soc. B 61 (1999) 611], here
    at least their standard error √(2/N), below which no scatter can be excluded.

    Without scatter of the lowest threshold its z has variance one and no correlation with the
    others. Both likelihoods are compared by Schwarz's criterion: with N pixels and n thresholds,
    the lowest one scatters if N [S₁₁ − 1 − ln(S₁₁ (1 − R²))] > n ln N.

    Returns:
        Σ, or ``None`` if the estimates are explained by a lowest threshold without scatter, or are
        those of fewer than 30 pixels.
    """
    finite = estimates_keV.isfinite().all(-1) & covariance.isfinite().flatten(1).all(-1)
    roots, failed = torch.linalg.cholesky_ex(covariance[finite])
    sound = failed == 0
    n_pixels, n_thresholds = int(sound.sum()), estimates_keV.shape[1]
    if n_pixels < FEWEST_PIXELS:
        return None
    t = estimates_keV[finite][sound]
    z = torch.linalg.solve_triangular(roots[sound], (t - t.mean(0))[..., None], upper=False)[..., 0]
    S = z.T @ z / (n_pixels - 1)
    first, across = S[0, 0], S[0, 1:]
    explained = across @ torch.linalg.solve(S[1:, 1:], across) / first  # R²
    gain = n_pixels / 2 * float(first - 1 - (first * (1 - explained)).log())
    if first < 1 or gain < n_thresholds / 2 * math.log(n_pixels):
        return None
    values, vectors = torch.linalg.eigh(S)
    excess = (values - 1).clamp(min=math.sqrt(2 / n_pixels))
    root = roots[sound].mean(0) @ vectors
    return (root * excess) @ root.T
