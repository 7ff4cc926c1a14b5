"""Values that cannot be those of a scan: not finite, no photons, in the wrong order.

Arrays may be large, and are looked at in blocks.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import h5py
import numpy as np
import torch
from torch import Tensor

from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.reading.damaged import reason_of
from pcctlearn.scans.dead_pixels import any_of, dead_pixels, spread_views
from pcctlearn.scans.schema import ARRAYS, blocks
from pcctlearn.scans.validation.air import Findings, air_findings
from pcctlearn.scans.validation.saturation import saturation_faults

FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT32_TINY = float(np.finfo(np.float32).tiny)
REFUSED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NaN": np.isnan,
    "infinite": np.isinf,
    "beyond the range of float32 (3.4e38)": lambda v: np.isfinite(v) & (np.abs(v) > FLOAT32_MAX),
    "below the range of float32 (1.2e-38)": lambda v: (v > 0) & (v < _FLOAT32_TINY),
    "negative": lambda v: v < 0,
}
_REMEDIES = {  # of counts and air, where it is not that of every other array
    "infinite": "was something divided by zero? Store NaN for dead pixels",
    "negative": "is an offset subtracted twice, or a logarithm taken? Store 0 for noise below zero",
}
_PLAUSIBLE = {  # greatest absolute value: least and most, and what it is then likely to be
    "keV": (2.0, 1000.0, "is it in MeV? Multiply by 1000", "is it in eV? Divide by 1000"),
    "g/cm3": (0.0, 30.0, "", "is it in mg/cm3? Divide by 1000"),
    "g/cm2": (0.0, 5000.0, "", "is it in mg/cm2? Divide by 1000"),
    "rad": (0.0, 8 * math.pi, "", "is it in degrees? Multiply by π / 180"),
}
_IN_RANGE = (  # fluence and counts may be any number, registered energies begin at 0
    "thresholds_keV",
    "true_thresholds_keV",
    "spectrum/energies_keV",
    "response/energies_keV",
    "response/deposited_keV",
    "geometry/measured_angles_rad",
    "maps",
    "line_integrals",
)
MEASURED = ("counts", "air")
_MOST_VIEWS = 32  # of which counts are compared with air


def value_faults(name: str, item: h5py.Dataset) -> Iterator[str]:
    """Values that an array must not hold: how many, where the first is, and the remedy."""
    array = ARRAYS[name]
    axes = array.axes_of(item.ndim)
    n_bad = dict.fromkeys(array.refused, 0)
    first: dict[str, list[int]] = {}
    most = 0.0
    try:
        for start, values in blocks(item):
            known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
            most = max(most, float(np.abs(known.astype(np.float64)).max(initial=0)))
            for kind in array.refused:
                bad = REFUSED[kind](values)
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
    if name in _IN_RANGE and not low <= most <= high:
        yield (
            f"{name} goes to {most:.6g} {array.unit}: {too_low if most < low else too_high}, or "
            "correct the values"
        )
    if array.increases:
        values = item.astype("float64")[()].reshape(-1, item.shape[-1])
        falling = ~(np.diff(values) > 0).all(-1)
        if falling.any():
            yield (
                f"{name} must increase along its axis {axes[-1]}, got "
                f"{values[falling][0].tolist()}: list it from the lowest to the highest"
            )


def count_faults(sound: Mapping[str, h5py.Dataset]) -> Iterator[str]:
    """Counts that contradict air, or the truth in the file."""
    if {"counts", "air"} <= sound.keys():
        exposure = list(exposure_faults(sound["counts"], sound["air"]))
        yield from exposure
        if not exposure and {"primary", "scatter"} <= sound.keys():
            yield from _truth_faults(sound["counts"], sound["primary"], sound["scatter"])


def exposure_faults(counts: h5py.Dataset, air: h5py.Dataset) -> Iterator[str]:
    """Counts that are certainly no photons, by some of the views."""
    some = counts[:, :: math.ceil(counts.shape[1] / 16)]
    expected = air[()]
    lit = np.broadcast_to(expected[:, None] > 0, some.shape) & ~np.isnan(some)
    if not lit.any():
        return  # all of it is dead
    expected = np.broadcast_to(expected[:, None], some.shape)[lit]
    some = some[lit]
    if (expected == 1).all():
        yield "air is 1 everywhere: are counts transmissions? Store both in photons"
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
    measured, *expected = (
        float(item[:, ::step].sum(dtype=np.float64)) for item in (counts, primary, scatter)
    )
    total = sum(expected)
    if abs(measured - total) > 0.2 * total + 10 * math.sqrt(total):
        yield (
            f"counts are {measured / total:.3g} times primary and scatter together: store the "
            "expected photons of the same scan and exposure, scatter after grid_transmission"
        )


def water_model(sound: Mapping[str, h5py.Dataset]) -> SpectralModel | None:
    """Spectrum, response, and the thresholds of a median pixel; ``None`` where one is absent.

    Raises:
        ValueError: they do not fit together.
    """

    def tensors(*names: str) -> list[torch.Tensor]:
        return [torch.from_numpy(sound[name].astype("float64")[()]) for name in names]

    table = ("response/energies_keV", "response/deposited_keV", "response/response_per_keV")
    if not set(table) <= sound.keys():
        return None
    response = Table(*tensors(*table))
    others = ("spectrum/energies_keV", "spectrum/fluence", "thresholds_keV")
    if not set(others) <= sound.keys():
        return None
    energies, fluence, edges = tensors(*others)
    pixels = edges.reshape(-1, edges.shape[-1])
    water = attenuation_table(["water"], energies)
    # the lowest and the highest of all pixels stand for them
    extremes = Thresholds(torch.stack([pixels.amin(0), pixels.amax(0)]))
    SpectralModel(energies, fluence, response, extremes, water).air()
    typical = Thresholds(pixels.median(0).values)
    model = SpectralModel(energies, fluence, response, typical, water, ["water"])
    if not (model.air() > 0).all():
        raise ValueError(
            f"a bin of {typical.edges_keV.tolist()} keV counts nothing of this fluence: move the "
            "thresholds, or store the fluence in photons"
        )
    return model


def count_findings(
    counts: h5py.Dataset | Tensor, air: Tensor, model: SpectralModel | None
) -> Findings:
    """Saturation faults, else those of ``air_findings``, in a sample of at most 32 views."""
    views = spread_views(counts.shape[1], _MOST_VIEWS)
    some = torch.as_tensor(np.asarray(counts[:, views], np.float32))
    kinds = dead_pixels(some, air.float())
    varying = some.masked_fill(kinds["stuck"], torch.nan)
    if saturated := list(saturation_faults(varying.numpy(), air.float().numpy())):
        return Findings(saturated, [])
    dead = any_of(kinds)
    n, open_beam = (v.masked_fill(dead, torch.nan).numpy() for v in (some, air.float()))
    return air_findings(n, open_beam, model)
