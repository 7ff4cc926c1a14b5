"""Check that counts above thresholds do not increase with the threshold."""

import h5py
import numpy as np

from pcctlearn.scans.counted import in_bins
from pcctlearn.scans.schema import ARRAYS, blocks
from pcctlearn.scans.validation.air import Findings

_MOST_RAYS = 0.5  # share of the rays; a few are faults of pixels or rows of the detector
_BLOCK_BYTES = 2**20  # of counts that are converted at once


def nested_findings(name: str, above: h5py.Dataset) -> Findings:
    """A fault if counts increase with the threshold in most rays, a doubt if in some.

    Every photon above a threshold is also above those below it, with and without noise. A pixel in
    which one count does not is dead, and ``max_dead_share`` of an evaluation limits their number.

    Args:
        name: ``counts`` or ``air``.
        above: counts above thresholds.
    """
    wrong, first, n_risen, n_rays = np.zeros(above.shape[-2:], bool), "", 0, 0
    for start, values in blocks(above, _BLOCK_BYTES):
        bins = in_bins(values)
        risen = np.isnan(bins[:-1]) & ~np.isnan(values[:-1]) & ~np.isnan(values[1:])
        wrong |= risen.any(tuple(range(risen.ndim - 2)))
        n_risen += int(risen.any(0).sum())
        n_rays += int((values > 0).any(0).sum())
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
        f"{name} {'increases' if name == 'air' else 'increase'} with the threshold in "
        f"{wrong.sum()} of {wrong.size} pixels, first {first}"
    )
    if n_risen <= _MOST_RAYS * n_rays:
        return Findings([], [f"{found}: these pixels are treated as dead"])
    return Findings(
        [
            f"{found}: list counts, air and thresholds_keV from the lowest threshold to the "
            "highest, or set the root attribute counted to 'bins' if a count lies between its "
            "threshold and the next"
        ],
        [],
    )
