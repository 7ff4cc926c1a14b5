"""Find files in which one of counts and air is in bins and the other above thresholds."""

from collections.abc import Iterator
from typing import NamedTuple

import h5py
import numpy as np
import torch

from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.scans.dead_pixels import any_of, dead_pixels, spread_views
from pcctlearn.scans.validation.air import brightest_rays

_MOST_VIEWS = 32
_DISTINCT = 1.3  # factor between counts in bins and above thresholds; scatter causes less
_FRACTION = 3  # the other reading of air must reduce log(counts / air) by this factor
_BESIDE = 0.8, 1.3  # counts / air of rays beside the object, under the other reading


class _Reading(NamedTuple):
    """What counts and air hold, and the array that is stored in this form of the other."""

    counts: str
    air: str


_ABOVE = "above each threshold (cumulative)"
_READINGS = (_Reading(_ABOVE, "in bins"), _Reading("in bins", _ABOVE))
_TO_BINS = "store {name}[:-1] -= {name}[1:] (numpy, bin axis first)"
_TO_ABOVE = "store {name}[::-1].cumsum(0)[::-1] (numpy, threshold axis first)"


def mixed_faults(counts: h5py.Dataset, air: h5py.Dataset, counted: str) -> Iterator[str]:
    """A sentence if counts and air are not of one kind, with the conversion of the wrong one.

    Beside the object counts equal air. Where counts over air differ between the bins, and do not
    once air is converted from bins to above thresholds or the reverse, one of the arrays is
    converted; ``counted``, what the file says of both, tells which.

    Args:
        counts, air: datasets as they are stored.
        counted: "bins" or "above".
    """
    views = spread_views(counts.shape[1], _MOST_VIEWS)
    n = torch.from_numpy(np.asarray(counts[:, views], np.float32))
    open_beam = torch.from_numpy(np.asarray(air[()], np.float32))
    dead = any_of(dead_pixels(n, open_beam))
    if len(n) < 2 or dead.all():
        return
    open_beam = open_beam.masked_fill(dead, torch.nan).double()
    stored = open_beam.numpy()
    brightest = brightest_rays(n.masked_fill(dead, torch.nan).numpy(), stored)
    for convert, reading in zip((above_from_bins, bins_from_above), _READINGS, strict=True):
        other = convert(open_beam, dim=0).numpy()
        change = np.nanmedian(other / stored, (1, 2))
        if not (change > 0).all():
            continue
        ratio = (brightest.of_bins + 1e-9) / change
        total = slice(0, 1) if reading.counts == _ABOVE else slice(None)
        typical = np.nanmedian(stored, (1, 2))
        level = (brightest.of_bins * typical)[total].sum() / (change * typical)[total].sum()
        distinct = np.ptp(np.log(change))
        is_found = np.ptp(np.log(ratio)) < distinct / _FRACTION
        if distinct > np.log(_DISTINCT) and is_found and _BESIDE[0] < level < _BESIDE[1]:
            right = "in bins" if counted == "bins" else _ABOVE
            wrong = "counts" if reading.counts != right else "air"
            shown = ", ".join(f"{value:.3g}" for value in brightest.of_bins)
            remedy = (_TO_BINS if counted == "bins" else _TO_ABOVE).format(name=wrong)
            first, second = ("counts", "air") if wrong == "counts" else ("air", "counts")
            kinds = reading._asdict()
            yield (
                f"{first} {'are' if wrong == 'counts' else 'is'} {kinds[first]}, {second} "
                f"{'is' if wrong == 'counts' else 'are'} {kinds[second]}, and the root attribute "
                f"counted is {counted!r}: counts over air is {shown} in the brightest rays; "
                f"{remedy}"
            )
            return
