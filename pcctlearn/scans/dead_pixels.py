"""Find missing views and dead pixels, and fill dead pixels from their neighbours."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from pcctlearn.scans.validation.pixels import pixel_faults

Values = Float[Tensor, "bin view row column"]
Pixels = Bool[Tensor, "row column"]
_MOST_VIEWS = 128  # in which pixels are compared with their neighbours
_MOST_LISTED = 8  # pixels of a kind
_IMAGES = 64  # that are filled at once


def missing_views(counts: Values) -> list[int]:
    """Indices of the views in which a bin is NaN in all pixels, or no bin has a count."""
    all_nan = counts.isnan().all(-1).all(-1).any(0)
    no_counts = (counts.isnan() | (counts == 0)).all(-1).all(-1).all(0)
    return (all_nan | no_counts).nonzero().flatten().tolist()


def require_all_views(counts: Values) -> None:
    """Raise ValueError if views are missing."""
    if missing := missing_views(counts):
        raise ValueError(
            f"{len(missing)} of {counts.shape[1]} views hold no counts, or none in a bin "
            f"({', '.join(map(str, missing[:12]))}{' …' if len(missing) > 12 else ''}): "
            "leave them out of counts, of other arrays of views and n_views, and write the angles "
            "of the remaining views in rad as geometry/measured_angles_rad"
        )


def spread_views(n_views: int, most: int) -> np.ndarray:
    """Indices of at most ``most`` views, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, n_views - 1, most).round().astype(int))


def dead_pixels(counts: Values, air: Float[Tensor, "bin row column"]) -> dict[str, Pixels]:
    """Masks of the dead pixels by kind; a pixel is dead if any of its bins is faulty.

    A pixel "without air" has an air of 0 or NaN, a "NaN" pixel has a count of NaN, and a "silent"
    one has no count in any bin and view. "cold", "hot" and "stuck" pixels contradict their
    neighbours (``pixel_faults``, from at most 128 views).
    """
    views = spread_views(counts.shape[1], _MOST_VIEWS)
    implausible = pixel_faults(counts[:, views].cpu().numpy(), air.cpu().numpy())
    return {
        "without air": (air.isnan() | (air == 0)).any(0),
        "NaN": counts.isnan().any(1).any(0),
        "silent": (counts == 0).all(1).all(0),
        **{kind: torch.from_numpy(found.any(0)) for kind, found in implausible.items()},
    }


def any_of(kinds: Mapping[str, Bool[Tensor, "*pixel"]]) -> Bool[Tensor, "*pixel"]:
    """Pixels of any kind."""
    return torch.stack([*kinds.values()]).any(0)


def listed(kinds: dict[str, Pixels]) -> str:
    """The number of pixels of each kind, and (row, column) of the first eight."""
    return "; ".join(
        f"{len(places)} {kind}: {', '.join(f'({r}, {c})' for r, c in places[:_MOST_LISTED])}"
        + (" …" if len(places) > _MOST_LISTED else "")
        for kind, mask in kinds.items()
        if (places := mask.nonzero().tolist())
    )


def filled(
    values: Float[Tensor, "*image row column"], dead: Pixels
) -> Float[Tensor, "*image row column"]:
    """Replace dead pixels so that each is the mean of its neighbours, such as in each bin and view.

    The neighbours are the eight adjacent pixels, dead ones included: the values of a cluster solve
    a sparse linear system. Across a gap between modules the values then change linearly.

    Raises:
        ValueError: all pixels are dead.
    """
    if dead.all():
        raise ValueError("all pixels are dead: leave this scan out")
    if not dead.any():
        return values
    inside = dead.cpu().numpy()
    adjacency = _neighbours(inside.shape)
    n_neighbours = sparse.diags_array(np.asarray(adjacency.sum(1)).ravel())
    unknown, known = inside.ravel().nonzero()[0], (~inside).ravel().nonzero()[0]
    rows = adjacency[unknown]
    system = splu((n_neighbours - adjacency).tocsr()[unknown][:, unknown].tocsc())
    beside = np.intersect1d(known, rows.nonzero()[1])
    images = values.reshape(-1, inside.size)
    result = images.clone()
    for start in range(0, len(images), _IMAGES):
        block = slice(start, start + _IMAGES)
        sums = rows[:, beside] @ images[block][:, beside].double().cpu().numpy().T
        result[block, unknown] = torch.from_numpy(system.solve(sums).T).to(values)
    return result.reshape(values.shape)


def _neighbours(shape: tuple[int, ...]) -> sparse.csr_array:
    """1 for each pair of adjacent pixels of a panel, (pixel, pixel)."""
    along = [sparse.diags_array([1.0, 1.0, 1.0], offsets=[-1, 0, 1], shape=(n, n)) for n in shape]
    both = sparse.kron(*along) - sparse.eye_array(shape[0] * shape[1])
    return sparse.csr_array(both)
