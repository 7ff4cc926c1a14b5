"""Two functions of two variables, tabulated for every pixel, and their inverse."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_TOLERANCE = 1e-9  # of the residual, relative to the range of the table
_MAX_STEPS = 40

Pairs = Float[Tensor, "*ray pixel 2"]


@dataclass(frozen=True)
class BilinearMap:
    """r(v) between the nodes of a table, bilinear in v; outside it goes on as in the last cell.

    Args:
        values: r of every pixel at the nodes.
        first, second: v₁ and v₂ of the nodes, increasing.
    """

    values: Float[Tensor, "pixel first second 2"]
    first: Float[Tensor, "first"]
    second: Float[Tensor, "second"]

    def __call__(self, v: Pairs) -> tuple[Pairs, Float[Tensor, "*ray pixel 2 2"]]:
        """r(v) and ∂r/∂v."""
        n_pixels, n_first, n_second, _ = self.values.shape
        i, f, width = _place(v[..., 0], self.first)
        j, g, height = _place(v[..., 1], self.second)
        nodes = self.values.flatten(0, 2).to(v)
        at = (torch.arange(n_pixels, device=v.device) * n_first + i) * n_second + j
        low, low_next = nodes[at], nodes[at + 1]
        high, high_next = nodes[at + n_second], nodes[at + n_second + 1]
        f, g = f[..., None], g[..., None]
        left, right = low + g * (low_next - low), high + g * (high_next - high)
        along_second = (low_next - low) + f * ((high_next - high) - (low_next - low))
        slopes = [(right - left) / width[..., None], along_second / height[..., None]]
        return left + f * (right - left), torch.stack(slopes, -1)

    def regular_share(self) -> Float[Tensor, "pixel"]:
        """Share of the cells' corners where det ∂r/∂v has the sign of most corners of all pixels.

        Noise of the nodes folds small cells.
        """
        v, corners = self.values, []
        for a in (slice(None, -1), slice(1, None)):
            for b in (slice(None, -1), slice(1, None)):
                along = v.diff(dim=1)[:, :, b], v.diff(dim=2)[:, a]
                corners.append(_determinant(torch.stack(along, -1)).flatten(1))
        signs = torch.cat(corners, 1).sign()
        return (signs == signs.median()).double().mean(1)

    def inverse(self, r: Pairs) -> tuple[Pairs, Bool[Tensor, "*ray pixel"]]:
        """v with r(v) = r, and where it was found.

        Newton's method from a quadratic polynomial in r; a step that does not lower the residual is
        shortened. Where there is no solution, v is the best iterate.
        """
        extent = torch.stack([self.first[-1] - self.first[0], self.second[-1] - self.second[0]])
        lowest = torch.stack([self.first[0], self.second[0]])
        range = self.values.flatten(0, 2).amax(0) - self.values.flatten(0, 2).amin(0)
        extent, lowest, range = extent.to(r), lowest.to(r), range.to(r)
        v = self._start(r).clamp(lowest - extent / 4, lowest + extent)
        at, slope = self(v)
        error = ((at - r) / range).abs().amax(-1)
        share = torch.ones_like(error)
        for _ in torch.arange(_MAX_STEPS):
            if bool((error <= _TOLERANCE).all()):
                break
            step = (share[..., None] * _solve(slope, at - r)).clamp(-extent / 2, extent / 2)
            trial = v - step
            at_trial, slope_trial = self(trial)
            error_trial = ((at_trial - r) / range).abs().amax(-1)
            better = error_trial < error
            v = torch.where(better[..., None], trial, v)
            at = torch.where(better[..., None], at_trial, at)
            slope = torch.where(better[..., None, None], slope_trial, slope)
            error = torch.where(better, error_trial, error)
            share = torch.where(better, (2 * share).clamp(max=1), share / 2)
        return v, error <= _TOLERANCE

    def _start(self, r: Pairs) -> Pairs:
        """The quadratic polynomial in r that fits v at the nodes of each pixel best."""
        nodes = torch.cartesian_prod(self.first, self.second)
        at_nodes = self.values.flatten(1, 2)
        scale = at_nodes.abs().amax((0, 1))
        wanted = nodes.expand(len(at_nodes), -1, -1)
        coefficients = torch.linalg.lstsq(_quadratic(at_nodes / scale), wanted).solution
        return torch.einsum("...pk,pkm->...pm", _quadratic(r / scale.to(r)), coefficients.to(r))


def _place(value: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cell of each value, the place within it (0 to 1 inside), and the width of the cell."""
    nodes = nodes.to(value)
    cell = (torch.bucketize(value.contiguous(), nodes, right=True) - 1).clamp(0, len(nodes) - 2)
    width = nodes.diff()[cell]
    return cell, (value - nodes[cell]) / width, width


def _quadratic(r: Float[Tensor, "*any 2"]) -> Float[Tensor, "*any 6"]:
    a, b = r.unbind(-1)
    return torch.stack([torch.ones_like(a), a, b, a * a, a * b, b * b], -1)


def _determinant(matrix: Float[Tensor, "*any 2 2"]) -> Float[Tensor, "*any"]:
    return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]


def _solve(matrix: Float[Tensor, "*any 2 2"], right: Float[Tensor, "*any 2"]) -> Tensor:
    """x with M x = r; zero where M is singular."""
    determinant = _determinant(matrix)
    x = torch.stack(
        [
            matrix[..., 1, 1] * right[..., 0] - matrix[..., 0, 1] * right[..., 1],
            matrix[..., 0, 0] * right[..., 1] - matrix[..., 1, 0] * right[..., 0],
        ],
        -1,
    )
    regular = determinant != 0
    return torch.where(regular[..., None], x / torch.where(regular, determinant, 1)[..., None], 0)
