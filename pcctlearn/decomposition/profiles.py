"""Profiles of the likelihood of two materials, for all rays that share their spectra."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Log counts are interpolated between 128 totals, from half a photon, below which a ray has no
# minimum, to 20 times the air, more than noise and scatter make.
_N_TOTALS, _LEAST_TOTAL, _MOST_AIRS = 128, 0.5, 20.0
# Nodes in the largest area density of a polynomial: with 40 a quartic through five of them leaves
# errors of a thousandth of a g/cm² at high counts, where one evaluation then solves most rays.
_NODES = 40
_LANES, _BLOCK = 64, 16  # numbers of nodes are multiples of these
_MOST_NODES = 256  # a larger table does not stay in the cache
_SAME_TOTAL = 1e-3  # share by which totals within the limits of the first material may differ
_UNLIMITED = 1e6  # g/cm², as if there were no limit
# Share of the photons of a bin at other energies than in the mean of all pixels: with 0.01 one of
# 60 000 rays had another, less likely minimum.
_MOST_MOVED = 0.003
_BELOW, _BEYOND = -0.25, 2.0  # limits of the table without a box, in the area density of ``_NODES``


class Profiles(NamedTuple):
    """Table from which ``profile_numba.scan`` makes the profile of every ray.

    ``table`` (total, row, node) is that of ``profile_table_numba.tabulate``. ``least`` is the log
    of its first total, and ``step`` that of the ratio of neighbours. ``spans`` (total, 2) are
    the first and last node between the limits of the first material, ``window`` (2, material) the
    limits of the table, and ``air`` (bin) the air counts of its spectra, the mean of all pixels. It
    is ``certain`` to show all minima if every pixel has nearly these spectra, if it extends over a
    finite box, finely enough, and if both materials attenuate at all energies.
    """

    table: np.ndarray
    least: np.float32
    step: np.float32
    spans: np.ndarray
    window: np.ndarray
    air: np.ndarray
    certain: bool


_NONE = np.zeros(1, np.float32)
NO_PROFILES = Profiles(
    _NONE[:, None, None],
    _NONE[0],
    _NONE[0],
    _NONE[None].astype(np.int32),
    _NONE[None],
    _NONE,
    False,
)


def tabulated_profiles(
    spectra: Tensor, attenuation: Tensor, reach: Tensor, box: Tensor
) -> Profiles:
    """Profiles for the mean spectra of the pixels.

    Args:
        spectra: (pixel, bin, energy), float32, on a CPU as the others.
        attenuation: (material, energy), of two materials.
        reach: (material), area density of each material alone that hardly transmits, g/cm².
        box: lower and upper limits, (2, material).
    """
    mean = spectra.mean(0) if len(spectra) > 1 else spectra[0]
    reach = torch.where((reach > 0) & (reach < torch.inf), reach, 1.0)  # NaN without attenuation
    given = (t.float().numpy().tobytes() for t in (mean, attenuation, reach, box))
    found = _tabulated(*given, len(mean))
    return found._replace(certain=found.certain and _most_moved(spectra, mean) <= _MOST_MOVED)


def _most_moved(spectra: Tensor, mean: Tensor) -> float:
    """Largest share of the photons of a bin that lie at other energies than in the mean."""
    shape, of_mean = (S / S.sum(-1, keepdim=True) for S in (spectra, mean))
    return 0.5 * float((shape - of_mean).abs().sum(-1).max())


@lru_cache(maxsize=4)
def _tabulated(spectra: bytes, attenuation: bytes, reach: bytes, box: bytes, n: int) -> Profiles:
    """Profiles of spectra (n, energy); arguments are the bytes of arrays of float32."""
    from pcctlearn.decomposition import profile_table_numba

    S, mu = np.frombuffer(spectra, np.float32), np.frombuffer(attenuation, np.float32)
    S, mu = S.reshape(n, -1), mu.reshape(2, -1)
    far = np.frombuffer(reach, np.float32)
    limits = np.frombuffer(box, np.float32).reshape(2, 2)
    lower, upper = np.where(
        np.abs(limits) < _UNLIMITED, limits, np.sign(limits) * np.float32(np.inf)
    )
    lower = np.where(np.isfinite(lower), lower, np.minimum(_BELOW * far, upper - far))
    upper = np.where(np.isfinite(upper), upper, np.maximum(_BEYOND * far, lower + far))
    nodes = (_NODES * (upper - lower) / far).tolist()
    n_w, n_nodes = (
        math.ceil(min(max(number, size), _MOST_NODES) / size) * size
        for number, size in zip(nodes, (_LANES, _BLOCK), strict=True)
    )
    air = S.sum(-1)
    least = math.log(_LEAST_TOTAL)
    most = max(math.log(_MOST_AIRS * float(air.sum())), least + 1)
    totals = np.exp(np.linspace(least, most, _N_TOTALS)).astype(np.float32)
    table = np.empty((_N_TOTALS, profile_table_numba.n_rows(n), n_nodes), np.float32)
    profile_table_numba.tabulate(S, mu, lower, upper, totals, n_w, (0,) * 2, (0,) * n, table)
    certain = max(nodes) <= _MOST_NODES and np.isfinite(limits).all() and (mu > 0).all()
    step = (most - least) / (_N_TOTALS - 1)
    window = np.stack([lower, upper])
    return Profiles(
        table,
        np.float32(least),
        np.float32(step),
        _spans(table, totals),
        window,
        air,
        bool(certain),
    )


def _spans(table: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """First and last node whose expected total is that of the row; both are zero without one."""
    from pcctlearn.decomposition.profile_table_numba import EXCESS

    same = np.abs(table[:, EXCESS]) <= _SAME_TOTAL * totals[:, None]
    first = np.where(same.any(1), same.argmax(1), 0)
    last = np.where(same.any(1), same.shape[1] - 1 - same[:, ::-1].argmax(1), 0)
    return np.stack([first, last], 1).astype(np.int32)


class Starts(NamedTuple):
    """First iterates (ray, material) of two searches; the second is NaN if none is needed.

    They are ``sure`` if they are close to all minima of the ray.
    """

    first: Tensor
    second: Tensor
    sure: Tensor

    def or_else(self, other: "Starts") -> "Starts":
        """The other starts where these are not sure."""
        sure = self.sure[:, None]
        first, second = (torch.where(sure, a, b) for a, b in zip(self[:2], other[:2], strict=True))
        return Starts(first, second, self.sure)


def profile_starts(counts: Tensor, spectra: Tensor, table: Profiles) -> Starts:
    """The minima of the profiles; sure for rays with one or two of them.

    Args:
        counts: (pixel, ray, bin).
        spectra: (pixel, bin, energy), or one for all pixels.
        table: the profiles of these spectra.
    """
    from pcctlearn.decomposition import profile_numba

    n = counts[..., 0].numel()
    first, second = np.zeros((2, n, 2), np.float32)
    number = np.zeros(n, np.int8)
    scale = torch.from_numpy(table.air) / spectra.sum(-1)
    scale = torch.where((scale - 1).abs() > 1e-5, scale, 1.0)  # of the same spectra
    scaled = counts * scale[:, None]
    flat, same = scaled.flatten(0, 1).contiguous().numpy(), np.ones_like(table.air)
    profile_numba.scan(flat, same, table, first, second, number)
    sure = torch.from_numpy((number == 1) | (number == 2))
    return Starts(torch.from_numpy(first), torch.from_numpy(second), sure)
