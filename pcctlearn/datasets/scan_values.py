"""Values that cannot be those of a scan: not finite, no photons, in the wrong order.

Arrays may be large, and are looked at in blocks.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import h5py
import numpy as np
import torch

from pcctlearn.datasets.scan_schema import ARRAYS, blocks
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds

REFUSED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "not finite": (
        lambda values: ~np.isfinite(values),
        "NaN or infinite: interpolate dead pixels from their neighbours, or leave them out",
    ),
    "infinite": (
        np.isinf,
        "infinite: a division by zero? Mark what is dead as NaN",
    ),
    "negative": (
        lambda values: values < 0,
        "negative: is an offset subtracted twice, or a logarithm taken? Set what is noise to 0",
    ),
    "zero": (
        lambda values: values == 0,
        "zero, where the unattenuated beam is expected: interpolate dead pixels, and counts alike",
    ),
}
MAY_BE_DEAD = ("counts", "air")


def value_faults(
    name: str, item: h5py.Dataset, refused: Sequence[str] | None = None
) -> Iterator[str]:
    """Values that an array must not hold: how many, and where the first is.

    refused: kinds of values, by default those that its schema refuses.
    """
    array = ARRAYS[name]
    axes = array.axes_of(item.ndim)
    kinds = array.refused if refused is None else refused
    n_bad = dict.fromkeys(kinds, 0)
    first: dict[str, list[int]] = {}
    try:
        for start, values in blocks(item):
            for kind in kinds:
                bad = REFUSED[kind][0](values)
                if n_bad_here := int(bad.sum()):
                    n_bad[kind] += n_bad_here
                    place = [int(i) for i in np.argwhere(bad)[0]]
                    first.setdefault(kind, [p + start * (i == 1) for i, p in enumerate(place)])
    except (OSError, RuntimeError) as error:
        yield f"{name} cannot be read ({error}): the file is damaged, copy it again"
        return
    for kind, place in first.items():
        where = ", ".join(f"{axis} {index}" for axis, index in zip(axes, place, strict=True))
        yield (
            f"{name}: {n_bad[kind]} of {item.size} values, the first at {where}, are "
            f"{REFUSED[kind][1]}"
        )
    if array.increases and not first:
        values = item.astype("float64")[()].reshape(-1, item.shape[-1])
        falling = ~(np.diff(values) > 0).all(-1)
        if falling.any():
            yield (
                f"{name} must increase along its axis {axes[-1]}, got "
                f"{values[falling][0].tolist()}: list it from the lowest to the highest"
            )


def faults_beside_dead_pixels(file: h5py.File, checked: Collection[str]) -> list[str]:
    """What is wrong with counts and air, whose dead pixels may be NaN, or zero in air."""
    found = {name: file[name] for name in MAY_BE_DEAD if name in checked}
    wrong = [
        fault
        for name, item in found.items()
        for fault in value_faults(name, item, ("infinite", "negative"))
    ]
    return wrong or list(count_faults(found))


def count_faults(sound: Mapping[str, h5py.Dataset]) -> Iterator[str]:
    """Counts that do not go with air, or with the truth that is told of them."""
    if {"counts", "air"} <= sound.keys():
        exposure = list(_exposure_faults(sound["counts"], sound["air"]))
        yield from exposure
        if not exposure and {"primary", "scatter"} <= sound.keys():
            yield from _truth_faults(sound["counts"], sound["primary"], sound["scatter"])


def _exposure_faults(counts: h5py.Dataset, air: h5py.Dataset) -> Iterator[str]:
    """Counts that are certainly no photons, by some of the views."""
    some = counts[:, :: math.ceil(counts.shape[1] / 16)]
    expected = air[()]
    lit = np.broadcast_to(expected[:, None] > 0, some.shape) & ~np.isnan(some)
    if not lit.any():
        return  # all of it is dead
    expected = np.broadcast_to(expected[:, None], some.shape)[lit]
    some = some[lit]
    ratio = float(np.median(some / expected))
    if (expected == 1).all():
        yield "air is 1 everywhere: are counts transmissions? Store both in photons"
    elif ratio > 1.5:
        yield (
            f"counts exceed air, by a factor of {ratio:.3g} in the median: store dark-corrected "
            "counts in photons, and air of the same exposure"
        )
    elif some.max() <= 20 and some.max() < 1e-4 * expected.min() and (some % 1).any():
        yield (
            f"counts are at most {some.max():.3g} and not whole, air is {expected.min():.3g} at "
            "least: are they logarithms? Store counts in photons"
        )


def _truth_faults(
    counts: h5py.Dataset, primary: h5py.Dataset, scatter: h5py.Dataset
) -> Iterator[str]:
    """Truth that certainly belongs to other counts, by some of the views."""
    step = math.ceil(counts.shape[1] / 16)
    measured, *expected = (float(item[:, ::step].sum()) for item in (counts, primary, scatter))
    total = sum(expected)
    if abs(measured - total) > 0.2 * total + 10 * math.sqrt(total):
        yield (
            f"counts are {measured / total:.3g} times primary and scatter together: store the "
            "expected photons of the same scan and exposure, scatter after scatter_factor"
        )


def model_faults(sound: Mapping[str, h5py.Dataset]) -> Iterator[str]:
    """Whether response, spectrum and thresholds, as far as they are there, fit together."""

    def tensors(*names: str) -> list[torch.Tensor]:
        return [torch.from_numpy(sound[name].astype("float64")[()]) for name in names]

    table = ("response/energies_keV", "response/deposited_keV", "response/response_per_keV")
    if not set(table) <= sound.keys():
        return
    try:
        response = Table(*tensors(*table))
        if {"spectrum/energies_keV", "spectrum/fluence", "thresholds_keV"} <= sound.keys():
            energies, fluence, edges = tensors(
                "spectrum/energies_keV", "spectrum/fluence", "thresholds_keV"
            )
            # the lowest and the highest of all pixels stand for them
            pixels = edges.reshape(-1, edges.shape[-1])
            thresholds = Thresholds(torch.stack([pixels.amin(0), pixels.amax(0)]))
            water = attenuation_table(["water"], energies)
            SpectralModel(energies, fluence, response, thresholds, water).air()
    except ValueError as error:
        yield f"spectrum, response and thresholds_keV do not fit together: {error}"
