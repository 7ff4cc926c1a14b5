"""Counts above thresholds in a scan file, read as counts in bins."""

from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.thresholds import bins_from_above
from pcctlearn.scans.schema import blocks
from pcctlearn.shapes import Edges

COUNTED = ("bins", "above")  # what the root attribute ``counted`` may say of counts and air
_ROUNDING = 1e-6  # of float32, relative to the counts above both thresholds
_BLOCK_BYTES = 2**20  # of counts that are converted at once


class InBins:
    """A dataset of counts above thresholds (threshold, …) that is indexed as counts in bins.

    N_b = A_b − A_{b+1}, and the last bin holds all counts above the last threshold. The bins are
    independent Poisson variables; counts above thresholds share the photons above the higher one
    and cannot increase with the threshold. Where they do, the bin is NaN, and the pixel dead.
    """

    def __init__(self, above: h5py.Dataset, dtype: str | None = None) -> None:
        self.above, self.dtype = above, np.dtype(dtype or above.dtype)
        self.shape = above.shape

    def astype(self, dtype: str) -> "InBins":
        """The same counts as another type of float."""
        return InBins(self.above, dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Counts in bins; the index must keep the first axis whole.

        All of them are converted in blocks, since the conversion in float64 needs far more memory
        than the counts.
        """
        kind = self.dtype if self.dtype.kind == "f" else np.dtype(np.float64)
        if not (isinstance(index, tuple) and index == ()):
            return in_bins(self.above[index]).astype(kind)
        bins = np.empty(self.shape, kind)
        for start, values in blocks(self.above, _BLOCK_BYTES):
            bins[:, start : start + values.shape[1]] = in_bins(values)
        return bins


Stored = h5py.Dataset | InBins


def without_upper_limit(edges_keV: Edges, energies_keV: Tensor, deposited_keV: Tensor) -> Edges:
    """Edges whose last one is higher than all that is registered.

    The last bin of counts above thresholds holds everything above the last threshold: with a lower
    limit, the model would lack what the finite energy resolution registers above it.
    """
    beyond = 1 + max(float(energies_keV[-1]), float(deposited_keV[-1]))
    return torch.cat([edges_keV[..., :-1], edges_keV[..., -1:].clamp(min=beyond)], -1)


def to_bins(above: Float[Tensor, "threshold *rest"]) -> Float[Tensor, "bin *rest"]:
    """Counts in bins, NaN where counts increase with the threshold."""
    bins = bins_from_above(above, dim=0)
    risen = bins < -_ROUNDING * above.abs()
    return bins.clamp(min=0).masked_fill(risen, torch.nan)


def in_bins(above: np.ndarray) -> np.ndarray:
    """``to_bins`` of an array of any numbers, in float64."""
    return to_bins(torch.from_numpy(np.asarray(above, np.float64))).numpy()
