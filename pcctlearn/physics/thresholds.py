"""Edges of the energy bins, learnable, shared or per pixel."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcctlearn.shapes import Edges


class Thresholds(nn.Module):
    """Edges D_0 < … < D_B in keV; bin b counts events registered between D_b and D_{b+1}.

    Args:
        edges_keV: (edge,) for all pixels, or (*pixel, edge).
        n_pixels: number of pixels that each get a copy of shared edges.
        learn: edges that receive a gradient. By default all but the last: an upper edge at the
            tube voltage separates almost no photons, so counts do not determine it
            (``decomposition.sensitivity.count_information``).
    """

    learn: Tensor

    def __init__(
        self,
        edges_keV: Sequence[float] | Edges,
        n_pixels: int | None = None,
        learn: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        edges = torch.as_tensor(edges_keV, dtype=torch.float64).clone()
        if edges.shape[-1] < 2:
            raise ValueError(f"edges_keV needs at least two edges, got {edges.tolist()}")
        if not edges.isfinite().all() or not (edges.diff(dim=-1) > 0).all():
            wrong = edges.flatten(0, -2) if edges.ndim > 1 else edges[None]
            first = wrong[~(wrong.diff(dim=-1) > 0).all(-1)][:1].flatten().tolist()
            raise ValueError(
                f"edges_keV must be finite and increase, got {first or 'NaN'}: list them from the "
                "lowest to the highest, as in physics.thresholds.edges_keV=[15,50,120]"
            )
        if n_pixels is not None:
            edges = edges.expand(n_pixels, -1).clone()
        if learn is None:
            learn = [True] * (edges.shape[-1] - 1) + [False]
        if len(learn) != edges.shape[-1]:
            raise ValueError(
                f"learn needs one entry for each of {edges.shape[-1]} edges, got {list(learn)}: "
                "list as many, or use physics.thresholds.learn=null for all but the last"
            )
        self.edges_keV = nn.Parameter(edges)
        self.register_buffer("learn", torch.tensor(list(learn), device=edges.device))

    @property
    def n_bins(self) -> int:
        """Number of energy bins."""
        return self.edges_keV.shape[-1] - 1

    def forward(self) -> Edges:
        """The edges; only edges with ``learn`` pass a gradient."""
        return torch.where(self.learn, self.edges_keV, self.edges_keV.detach())

    @torch.no_grad()
    def assign(self, edges_keV: Tensor) -> None:
        """Set the edges to new values of the same shape."""
        self.edges_keV.copy_(edges_keV)

    def extra_repr(self) -> str:
        """Shape of the edges and, where shared, their values."""
        edges = self.edges_keV.detach()
        return f"edges_keV={edges.tolist()}" if edges.ndim == 1 else f"shape={tuple(edges.shape)}"


def without_upper_limit(thresholds_keV: Sequence[float], end_keV: float) -> str:
    """The setting of these thresholds for counts without an upper limit, as it is typed."""
    edges = [*thresholds_keV, math.ceil(end_keV) + 1.0]
    return f"physics.thresholds.edges_keV=[{','.join(map(str, edges))}]"


def above_from_bins(bins: Tensor, dim: int = -1) -> Tensor:
    """Counts above each threshold: sums of the bins from the top, which has no upper limit."""
    return bins.flip(dim).cumsum(dim).flip(dim)


def bins_from_above(above: Tensor, dim: int = -1) -> Tensor:
    """Counts in bins: differences of counts above neighboring thresholds."""
    n = above.shape[dim]
    return torch.cat(
        [above.narrow(dim, 0, n - 1) - above.narrow(dim, 1, n - 1), above.narrow(dim, n - 1, 1)],
        dim,
    )
