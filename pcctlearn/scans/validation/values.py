"""Check the values of each array of a file: finite, in the expected range, in order.

Large arrays are read in blocks.
"""

import math
from collections.abc import Callable, Iterator

import h5py
import numpy as np

from pcctlearn.reading.damaged import reason_of
from pcctlearn.scans.schema import MEASURED, StoredArray, blocks

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT32_TINY = float(np.finfo(np.float32).tiny)
_REFUSED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NaN": np.isnan,
    "infinite": np.isinf,
    "beyond the range of float32 (3.4e38)": lambda v: np.isfinite(v) & (np.abs(v) > _FLOAT32_MAX),
    "below the range of float32 (1.2e-38)": lambda v: (v > 0) & (v < _FLOAT32_TINY),
    "negative": lambda v: v < 0,
}
_REMEDIES = {  # for counts and air
    "infinite": "was something divided by zero? Store NaN for dead pixels",
    "negative": "is an offset subtracted twice, or a logarithm taken? Store 0 for noise below zero",
}
_PLAUSIBLE = {  # range of the greatest absolute value; remedies if it is below or above
    "keV": (2.0, 1000.0, "is it in MeV? Multiply by 1000", "is it in eV? Divide by 1000"),
    "g/cm3": (0.0, 30.0, "", "is it in mg/cm3? Divide by 1000"),
    "g/cm2": (0.0, 5000.0, "", "is it in mg/cm2? Divide by 1000"),
    "rad": (
        0.0,
        8 * math.pi,
        "",
        "is it in degrees? Multiply by π / 180; in rad, store it modulo 2π",
    ),
}


def value_faults(name: str, array: StoredArray, item: h5py.Dataset) -> Iterator[str]:
    """Values that an array must not hold: their number, the place of the first, and a remedy."""
    axes = array.axes_of(item.ndim)
    n_bad = dict.fromkeys(array.refused, 0)
    first: dict[str, list[int]] = {}
    most = 0.0
    try:
        for start, values in blocks(item):
            known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
            most = max(most, float(np.abs(known.astype(np.float64)).max(initial=0)))
            for kind in array.refused:
                bad = _REFUSED[kind](values)
                if n_bad_here := int(bad.sum()):
                    n_bad[kind] += n_bad_here
                    place = [int(i) for i in np.argwhere(bad)[0]]
                    first.setdefault(kind, [p + start * (i == 1) for i, p in enumerate(place)])
    except (OSError, RuntimeError) as error:
        yield f"{name} cannot be read ({reason_of(error)}): the file is damaged, copy it again"
        return
    for kind, place in first.items():
        where = ", ".join(f"{axis} {index}" for axis, index in zip(axes, place, strict=True))
        remedy = _REMEDIES.get(kind) if name in MEASURED else None
        yield (
            f"{name}: {n_bad[kind]} of {item.size} values, the first at {where}, are {kind}: "
            f"{remedy or f'store the values of {name} in {array.unit}'}"
        )
    if first:
        return
    low, high, too_low, too_high = _PLAUSIBLE.get(array.unit, (0.0, math.inf, "", ""))
    if not (array.any_magnitude or low <= most <= high):
        yield (
            f"the greatest value of {name} is {most:.6g} {array.unit}: "
            f"{too_low if most < low else too_high}, or correct the values"
        )
    if array.increases:
        values = item.astype("float64")[()].reshape(-1, item.shape[-1])
        falling = ~(np.diff(values) > 0).all(-1)
        if falling.any():
            yield (
                f"{name} must increase along its axis {axes[-1]}, got "
                f"{values[falling][0].tolist()}: list it from the lowest to the highest"
            )
