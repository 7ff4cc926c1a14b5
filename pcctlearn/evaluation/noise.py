"""Noise of the maps of a scan, carried from the covariance of its line integrals."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pcctlearn.chain import Chain
from pcctlearn.scan import Scan

_N_DRAWS = 8
_SIDE = 9  # voxels of a slice over which products are averaged
_BODY_G_CM3 = 0.5

Covariance = Float[Tensor, "material material *voxel"]


def map_covariance(
    chain: Chain,
    scan: Scan,
    gain: Float[Tensor, "bin #view *pixel"],
    generator: torch.Generator,
    n_draws: int = _N_DRAWS,
) -> Covariance | None:
    """Covariance of the maps in (g/cm³)², if the decomposition computes that of the line integrals.

    Noise is drawn with the covariance of every ray and reconstructed; the products of the maps are
    averaged over the draws and over 9 × 9 voxels of a slice. Corrected counts are taken for
    photons: where a fraction f of the counts is removed as scatter, the standard deviation is too
    small by √(1 − f) if scatter counts were subtracted, and too large by 1/√(1 − f) if the counts
    were multiplied by 1 − f.

    Args:
        chain: with a reconstruction.
        scan: with counts and line integrals.
        gain: of the counts: photons were multiplied by it.
        generator: of the draws.
        n_draws: number of draws.
    """
    if chain.reconstruct is None:
        return None
    counts = scan.at("counts" if scan.corrected_counts is None else "corrected_counts")
    # the counts are photons times a gain: their variance is the gain squared times the photons
    covariance = chain.decompose.covariance(counts, counts * gain)
    if covariance is None:
        return None
    root = torch.linalg.cholesky_ex(covariance.double()).L.nan_to_num().to(covariance)
    line_integrals = scan.at("line_integrals")
    maps, total = chain.reconstruct(line_integrals), None
    for _ in range(n_draws):
        normal = torch.randn(root.shape[:-1], generator=generator).to(root)
        noise = (root @ normal[..., None])[..., 0].movedim(-1, 1)
        drawn = (chain.reconstruct(line_integrals + noise) - maps)[0]
        products = drawn[:, None] * drawn[None] / n_draws
        total = products if total is None else total + products
    assert total is not None
    slices = total.reshape(-1, 1, *total.shape[-2:])
    mean = avg_pool2d(slices, _SIDE, stride=1, padding=_SIDE // 2, count_include_pad=False)
    return mean.reshape(total.shape)


def noise_numbers(
    covariance: Covariance, maps: Float[Tensor, "material *voxel"], materials: tuple[str, ...]
) -> dict[str, float]:
    """Standard deviations in mg/mL, and correlations, of the mean covariance over the object."""
    body = maps.nansum(0) > _BODY_G_CM3
    if not body.any():
        return {}
    mean = covariance[..., body].mean(-1).double()
    sd = mean.diagonal().clamp(min=0).sqrt()
    numbers = {
        f"noise_{name}_mg_mL": 1000 * value
        for name, value in zip(materials, sd.tolist(), strict=True)
    }
    for i, first in enumerate(materials):
        for j, second in enumerate(materials[:i]):
            correlation = mean[i, j] / (sd[i] * sd[j]).clamp(min=torch.finfo(sd.dtype).tiny)
            numbers[f"noise_correlation_{second}_{first}"] = correlation.item()
    return numbers
