"""Check that counts above thresholds do not rise with the threshold."""

import h5py
import numpy as np
import torch

from pcctlearn.scans.counted import to_bins
from pcctlearn.scans.schema import ARRAYS, blocks
from pcctlearn.scans.validation.air import Findings

_MOST_PIXELS = 0.05  # share of the pixels; the same share of dead pixels stops an evaluation


def nested_findings(name: str, above: h5py.Dataset) -> Findings:
    """A fault if counts rise with the threshold in many pixels, a doubt if in few.

    Every photon above a threshold is also above those below it, with and without noise.

    Args:
        name: ``counts`` or ``air``.
        above: counts above thresholds.
    """
    wrong, first = np.zeros(above.shape[-2:], bool), ""
    for start, values in blocks(above):
        bins = to_bins(torch.from_numpy(np.asarray(values, np.float64))).numpy()
        risen = np.isnan(bins[:-1]) & ~np.isnan(values[:-1]) & ~np.isnan(values[1:])
        wrong |= risen.any(tuple(range(risen.ndim - 2)))
        if risen.any() and not first:
            place = [int(i) for i in np.argwhere(risen)[0]]
            low, high = (float(values[(place[0] + k, *place[1:])]) for k in (0, 1))
            axes = ARRAYS[name].axes_of(above.ndim)[1:]
            where = [p + start * (axis == "view") for axis, p in zip(axes, place[1:], strict=True)]
            first = (
                f"from {low:.6g} above threshold {place[0]} to {high:.6g} above threshold "
                f"{place[0] + 1} at "
                + ", ".join(f"{axis} {index}" for axis, index in zip(axes, where, strict=True))
            )
    if not first:
        return Findings([], [])
    found = (
        f"{name} above thresholds rise with the threshold in {wrong.sum()} of {wrong.size} "
        f"pixels, first {first}"
    )
    if wrong.mean() <= _MOST_PIXELS:
        return Findings([], [f"{found}: these pixels are treated as dead"])
    return Findings(
        [
            f"{found}: list counts, air and thresholds_keV from the lowest threshold to the "
            "highest, or set the root attribute counted to 'bins' if a count lies between its "
            "threshold and the next"
        ],
        [],
    )
