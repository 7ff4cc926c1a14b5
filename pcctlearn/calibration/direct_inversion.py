"""Gain, skew and threshold of a pixel from one linear system: what ETB-Cal is compared with."""

import torch

from pcctlearn.calibration.plate_counts import OfPixels, OfPlates, PlateModel, Skews

_LONGEST_STEP_keV, _FURTHEST_keV = 1.0, 15.0


def direct_inversion(
    counts: OfPlates,
    model: PlateModel,
    nominal_keV: float,
    ridge: float = 1e-8,
    max_rounds: int = 20,
) -> tuple[OfPixels, Skews, OfPixels]:
    """k, x and T of every pixel from N_m D_m/P_m = k (1 − Σ_n x_n p_nm − ΔT h_m) [2, appendix 6].

    Counts are divided by their sum over the pixels. The unknowns are k, k x_n and k ΔT, linear with
    products of small numbers dropped. The system is solved with a ridge on unknowns scaled to
    columns of length one; then T moves by ΔT and the coefficients are computed anew, without
    skew. Gain and skew are those of the last round.
    """
    n_pixels, n_materials = len(counts), len(model.attenuation_per_cm)
    no_skew = torch.zeros(n_pixels, n_materials).to(counts)
    T = torch.full((n_pixels,), nominal_keV).to(counts)
    expected = model.counts(no_skew, T).counts.mean(0)
    measured = counts / counts.mean(0) * expected
    gain, thickness = torch.ones_like(T), no_skew
    for _ in range(max_rounds):
        at = model.counts(no_skew, T)
        y = measured / at.counts
        rows = torch.cat([torch.ones_like(y)[..., None], -at.slopes, -at.hazard[..., None]], -1)
        scale = rows.square().mean((0, 1)).sqrt()
        scaled = rows / scale
        normal = scaled.mT @ scaled + ridge * rows.shape[1] * torch.eye(rows.shape[2]).to(rows)
        right = (scaled.mT @ y[..., None])[..., 0]
        solved = torch.linalg.lstsq(normal, right).solution / scale
        gain, thickness = solved[:, 0], solved[:, 1:-1] / solved[:, :1]
        step = (solved[:, -1] / gain).clamp(-_LONGEST_STEP_keV, _LONGEST_STEP_keV)
        T = (T + step).clamp(nominal_keV - _FURTHEST_keV, nominal_keV + _FURTHEST_keV)
    return gain, thickness, T
