"""Gain, skew and thresholds of every pixel through the decomposition of known objects."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from pcctlearn.calibration.layer_problem import KnownRays, LayerPrior, LayerProblem
from pcctlearn.calibration.pixel_fit import PixelFit
from pcctlearn.calibration.plate_counts import PlateModel
from pcctlearn.physics.spectral_model import expected_counts
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.solvers.levenberg_marquardt import LeastSquares, LevenbergMarquardt


def fit_through_decomposition(
    rays: KnownRays,
    model: PlateModel,
    basis: Sequence[str],
    nominal_keV: Float[Tensor, "threshold"],
    max_steps: int,
    prior: LayerPrior | None = None,
    n_fixed: int = 1,
    with_misfit: bool = False,
) -> PixelFit:
    """Minimise Σ_m (A*_m(θ) − A_m)ᵀ I_m (A*_m(θ) − A_m) over θ = (ln k, x, T) of every pixel.

    A*_m is the maximum-likelihood decomposition of the counts of exposure m with the spectra of θ,
    A_m are the known area densities, and I_m is the Fisher information of the decomposition:
    without it, directions that the counts do not determine would prevail. The derivative J of A*
    is −(∂²L/∂A²)⁻¹ ∂²L/∂A∂θ [1]. Since J depends on the noise of the counts, the minimum is biased
    by as much as its standard deviation where many exposures have few counts; the last step solves
    Σ_m J_mᵀ I_m (A*_m − A_m) = 0 with the J of the expected counts instead, which is not. A prior
    adds its (θ − m)ᵀ P (θ − m) to the sum. With more bins than materials, A* leaves part of the
    counts unused; ``with_misfit`` adds Σ (ȳ_b(A*) − y_b)²/ȳ_b, with which the sum holds all
    information of the counts.

    The lowest ``n_fixed`` thresholds are nominal; the others are searched as far as 12 keV from
    their nominal values, and halfway to one another.
    """
    solver = LevenbergMarquardt(1e-4, max_steps)
    blocks = rays.blocks()
    priors = [None] * len(blocks) if prior is None else prior.blocks(rays.pixels_per_block)
    parts = []
    for block, own in zip(blocks, priors, strict=True):
        problem = LayerProblem(block, model, basis, nominal_keV.double(), own, n_fixed, with_misfit)
        found = solver(problem.residuals, problem.start(), problem.longest())
        parts.append(_fitted(problem, found))
    return PixelFit.joined(parts)


def _fitted(problem: LayerProblem, found: LeastSquares) -> PixelFit:
    """Unknowns of all pixels with their error bars, and which of them are sound."""
    n, fixed = 1 + problem.n_materials, problem.n_fixed
    gradient, normal, _, decomposed = problem.at_expected_counts(found.x)
    covariance, singular = torch.linalg.inv_ex(normal)
    x = found.x - torch.einsum("puk,pk->pu", covariance, gradient)
    T = problem.thresholds(x)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    # a pixel that sees air alone has a normal matrix that only rounding makes regular
    known = (singular == 0) & (variance > 0).all(-1)
    spectra = problem.scale * problem.spectra(x)
    behind = expected_counts(problem.known, spectra, problem.attenuation)
    behind = above_from_bins(behind).movedim(1, 0) * problem.exposure[:, None]
    residual = (problem.above / behind).log()  # (pixel, exposure, threshold)
    n_exposures = len(problem.exposure)
    n_spare = (float(n_exposures - n), *(problem.n_thresholds - 1) * (n_exposures - 1.0,))
    within = torch.isclose(T[:, fixed:], x[:, n:], rtol=0, atol=1e-6).all(-1)
    sd = variance[:, n:].clamp(min=0).sqrt()
    return PixelFit(
        problem.scale * x[:, 0].exp(),
        x[:, 1:n],
        T,
        covariance[:, :n, :n],
        torch.cat([torch.zeros_like(T[:, :fixed]), sd], -1),
        found.converged & known & within & decomposed,
        residual,
        residual * problem.above.sqrt(),
        n_spare,
    )


def threshold_estimates(
    rays: KnownRays,
    model: PlateModel,
    basis: Sequence[str],
    nominal_keV: Float[Tensor, "threshold"],
    fit: PixelFit,
) -> tuple[Float[Tensor, "pixel threshold"], Float[Tensor, "pixel threshold threshold"]]:
    """All thresholds by one step from a fit with the lowest one fixed, and their covariance.

    The counts alone determine them: gain and skew are free, and nothing holds the lowest threshold.
    Where Σ r² of the median pixel exceeds that of photon noise, the covariance is scaled by it.
    """
    n = 1 + fit.thickness_cm.shape[1]
    means, covariances, left = [], [], []
    parts = (rays.blocks(), *(v.split(rays.pixels_per_block) for v in fit[:3]))
    for block, gain, thickness, T in zip(*parts, strict=True):
        problem = LayerProblem(block, model, basis, nominal_keV.double(), None, 0, True)
        x = torch.cat([(gain / problem.scale).log()[:, None], thickness, T], -1)
        at = problem.at_expected_counts(x)
        covariance, singular = torch.linalg.inv_ex(at.normal)
        covariance = torch.where((singular == 0)[:, None, None], covariance, torch.nan)
        step = torch.einsum("puk,pk->pu", covariance, at.gradient)
        means.append((x - step)[:, n:])
        covariances.append(covariance[:, n:, n:])
        left.append(at.chi2 - (at.gradient * step).sum(-1))
    n_spare = (len(rays.exposure) - 1) * len(nominal_keV) - n  # as many bins as thresholds
    excess = 1.0
    if n_spare > 0:
        excess = max(1.0, float(torch.cat(left).nanmedian()) / stats.chi2.median(n_spare))
    return torch.cat(means), excess * torch.cat(covariances)
