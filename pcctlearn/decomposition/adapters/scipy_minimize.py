"""One call of ``scipy.optimize.minimize`` for each ray, with exact gradient and Hessian."""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from pcctlearn.decomposition.adapters import Peer
from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, Spectra

# the fastest of trust-exact, Newton-CG, BFGS, Nelder-Mead and L-BFGS-B at this accuracy
_METHOD, _LARGEST_GRADIENT = "trust-exact", 1e-6


def prepare(
    counts: RayCounts, spectra: Spectra, attenuation: Attenuation, start: RayLineIntegrals
) -> Peer:
    """Newton's method in a trust region, in double precision."""
    n, S, mu, first = (t.detach().double().numpy() for t in (counts, spectra, attenuation, start))
    squares = (mu[:, None] * mu[None]).reshape(-1, mu.shape[-1])

    def moments(x: np.ndarray, *rows: np.ndarray) -> list[np.ndarray]:
        """Expected counts (bin), and their moments (bin, row)."""
        transmitted = S * np.exp(-x @ mu)
        return [transmitted.sum(-1), *(transmitted @ row.T for row in rows)]

    def value(x: np.ndarray, ray: np.ndarray) -> tuple[float, np.ndarray]:
        mean, slope = moments(x, mu)
        return mean.sum() - ray @ np.log(mean), (ray / mean - 1) @ slope

    def hessian(x: np.ndarray, ray: np.ndarray) -> np.ndarray:
        mean, slope, curvature = moments(x, mu, squares)
        ratio = ray / mean
        mixed = ((1 - ratio) @ curvature).reshape(len(mu), len(mu))
        return (slope * (ratio / mean)[:, None]).T @ slope + mixed

    def forward() -> Tensor:
        options = {"gtol": _LARGEST_GRADIENT}
        found = [
            minimize(value, x, (ray,), _METHOD, jac=True, hess=hessian, options=options).x
            for x, ray in zip(first, n, strict=True)
        ]
        return torch.from_numpy(np.stack(found))

    return Peer(forward)
