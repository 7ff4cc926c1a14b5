"""Rings: by how much a column differs from its neighbours in most views, and what θ explains it."""

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from scipy.signal import savgol_coeffs
from torch import Tensor
from torch.nn import functional

from pcctlearn.calibration.scan_problem import (
    Areas,
    AreaSlopes,
    Covariance,
    Normal,
    Quadratic,
    Rays,
    Unknowns,
    inverted,
)

Influence = Float[Tensor, "view pixel"]
OfMaterials = Float[Tensor, "pixel material material"]

N_BLOCKS = 36  # of views
_LIMIT = 2.0  # of a residual in standard deviations, beyond which its influence is constant
_ROUNDS = 3  # of weights and structure
_NEARBY, _NEXT = 31, 5  # columns over which moving and static structure is averaged
_LEAST_STRUCTURE = 1e-3  # of the noise


class HighPass:
    """r = H A: line integrals minus a parabola fitted to the columns around each of them.

    r is zero in columns within half a window of the ends of the row, and where ``good`` is False.

    Args:
        good: pixels of a row.
        n_columns: width of the window, odd.
    """

    def __init__(self, good: Bool[Tensor, "pixel"], n_columns: int) -> None:
        kernel = -torch.from_numpy(savgol_coeffs(n_columns, 2))
        kernel[n_columns // 2] += 1
        self._kernel, self._half = kernel[None, None], n_columns // 2
        column = torch.arange(len(good))
        self.inside = good & (column >= self._half) & (column < len(good) - self._half)
        self.gain = float(kernel.square().sum())  # variance of r of uncorrelated line integrals

    def __matmul__(self, area: Areas) -> Areas:
        return self._filtered(area) * self.inside[:, None]

    def adjoint(self, residual: Areas) -> Areas:
        """Hᵀ r; the window is symmetric."""
        return self._filtered(residual * self.inside[:, None])

    def smooth(self, area: Areas) -> Areas:
        """The parabolas at their own columns; near the ends of the row, the line integrals."""
        column = torch.arange(area.shape[1])
        whole = (column >= self._half) & (column < area.shape[1] - self._half)
        return area - self._filtered(area) * whole[:, None]

    def _filtered(self, values: Areas) -> Areas:
        rows = values.movedim(1, -1).flatten(0, 1)[:, None]
        out = functional.conv1d(rows, self._kernel.to(rows), padding=self._half)
        return out[:, 0].unflatten(0, (len(values), -1)).movedim(-1, 1)


class RingFlatness:
    """½ Σ_views rᵀ W r of the high-passed line integrals r, robust against edges of the object.

    W is the inverse covariance of r: noise of the line integrals, and structure of the object.
    Structure that moves over the columns is found from the means of r over 36 blocks of views: they
    vary about the mean of their column by structure and noise, while a ring is the same in all.
    Structure that stays in its column, as that of a circle about the axis of rotation, is what
    exceeds the uncertainty of θ in the means of columns: it passes for the object, not for a ring.
    Residuals beyond two standard deviations pull no more than those at two.

    Args:
        high_pass: H.
        area: line integrals A.
        slopes, noise: J = dA/dθ and covariance of A; with those at the noisy A of the same ray, r
            and J would be correlated, and θ biased.
        covariance: of θ without this term.
        rays: that are used.
    """

    def __init__(
        self,
        high_pass: HighPass,
        area: Areas,
        slopes: AreaSlopes,
        noise: Covariance,
        covariance: Normal,
        rays: Rays,
    ) -> None:
        self._high_pass, self._slopes = high_pass, slopes
        residual = high_pass @ area
        usable = (rays & high_pass.inside).to(area)
        mean = slopes.mean(0)
        explained = high_pass.gain * mean @ covariance @ mean.mT
        self.weights = _weights(residual, noise, usable, explained)
        # the blocks of pixels on the diagonal of Jᵀ Hᵀ W H J, as if W varied little over columns
        blocks = high_pass.gain * (slopes.mT @ (self.weights @ slopes)).sum(0)
        self.at_pixels = Quadratic(self._back(residual), blocks)

    def normal(self, step: Unknowns) -> Unknowns:
        """Jᵀ Hᵀ W H J of a step of θ."""
        return self._back(self._high_pass @ torch.einsum("vpmk,pk->vpm", self._slopes, step))

    def _back(self, residual: Areas) -> Unknowns:
        weighted = (self.weights @ residual[..., None])[..., 0]
        return torch.einsum("vpmk,vpm->pk", self._slopes, self._high_pass.adjoint(weighted))


def _weights(
    residual: Areas, noise: Covariance, usable: Influence, explained: OfMaterials
) -> Covariance:
    """W of every ray."""
    influence, W = usable, torch.zeros_like(noise)
    for _ in range(_ROUNDS):
        inverse = inverted(noise + _structure(residual, noise, influence, explained))
        square = torch.einsum("vpm,vpmn,vpn->vp", residual, inverse, residual)
        distance = (square / residual.shape[-1]).clamp(min=1e-30).sqrt()
        influence = usable * (_LIMIT / distance).clamp(max=1)
        W = influence[..., None, None] * inverse
    return W


def _structure(
    residual: Areas, noise: Covariance, influence: Influence, explained: OfMaterials
) -> OfMaterials:
    """Covariance of the structure of the object, as if it were independent from view to view."""
    n_views = len(residual)
    column = _mean(residual, influence)
    variation, n_blocks = torch.zeros_like(explained), torch.zeros_like(explained[:, :1, :1])
    limits = torch.linspace(0, n_views, N_BLOCKS + 1).round().int().tolist()
    for first, end in pairwise(limits):
        n = influence[first:end].sum(0)[:, None, None]
        off = _mean(residual[first:end], influence[first:end]) - column
        variation = variation + n * off[..., None] * off[..., None, :]
        n_blocks = n_blocks + (n > 0)
    variation = variation / (n_blocks - 1).clamp(min=1)
    n = influence.sum(0).clamp(min=1e-9)[:, None, None]
    own = (influence[..., None, None] * noise).sum(0) / n
    least = own.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    moving = _at_least(_averaged(variation - own, _NEARBY), _LEAST_STRUCTURE * least)
    excess = column[..., None] * column[..., None, :] - explained - (own + moving) / n
    return moving + n * _at_least(_averaged(excess, _NEXT), 0 * least)


def _mean(values: Areas, influence: Influence) -> Float[Tensor, "pixel material"]:
    """Over the views."""
    total = influence.sum(0).clamp(min=1e-9)[:, None]
    return (influence[..., None] * values).sum(0) / total


def _averaged(values: OfMaterials, n_columns: int) -> OfMaterials:
    """Mean over the columns around each."""
    rows = values.flatten(1).T[:, None]
    box = torch.ones(1, 1, n_columns).to(rows)
    total, count = (
        functional.conv1d(part, box, padding=n_columns // 2)
        for part in (rows, torch.ones_like(rows))
    )
    return (total / count)[:, 0].T.reshape(values.shape)


def _at_least(matrix: OfMaterials, least: Float[Tensor, "pixel 1"]) -> OfMaterials:
    """The matrix with its lower eigenvalues raised."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag_embed(values.maximum(least)) @ vectors.mT
