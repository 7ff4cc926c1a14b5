"""What a phantom scan tells of a detector and cannot tell apart, as a table and in words."""

from collections.abc import Iterator, Sequence

import torch

from pcctlearn.calibration.confusion import (
    Information,
    Unknown,
    taken_for,
    unknowns_of_pixels,
    unknowns_shared,
)
from pcctlearn.calibration.whole_detector import WholeDetectorModel
from pcctlearn.metrics.errors import Rows

_FILTER_CM = 0.01  # of aluminium, which the spectrum lacks


def names_of(found: WholeDetectorModel) -> tuple[list[Unknown], list[Unknown]]:
    """The unknowns of each pixel, and those that the pixels share."""
    skew = found.pixels.materials
    return unknowns_of_pixels(found.unknowns, skew), unknowns_shared(found.unknowns, found.shared)


def information(found: WholeDetectorModel) -> tuple[Information, Information]:
    """What the counts tell alone, and with the population of the thresholds."""
    n = found.unknowns.n_shared
    return (
        Information.of(found.registered.arrow.covariance(), n),
        Information.of(found.covariance, n),
    )


def information_sentences(found: WholeDetectorModel) -> Iterator[str]:
    """What the counts hardly tell apart, and what a wrong spectrum would be taken for."""
    yield from (f"{text[0].upper()}{text[1:]}." for text in _findings(found))


def _findings(found: WholeDetectorModel) -> Iterator[str]:
    pixel, shared = names_of(found)
    if found.held:
        yield f"held at their nominal values: {', '.join(found.held)}"
        return
    yield from information(found)[0].sentences(pixel, shared)
    n = found.unknowns.n_shared
    of_pixels, of_all = taken_for(
        found.counts, found.x, found.shared[:n], found.registered.arrow, thickness_cm=_FILTER_CM
    )
    both = [
        *zip(pixel, of_pixels.tolist(), strict=True),
        *zip(shared, of_all.tolist(), strict=True),
    ]
    parts = [
        f"{value / one.size:+.2g} {one.unit} of {one.name}"
        for one, value in both
        if abs(value / one.size) > 0.2 * one.tolerance
    ]
    taken = " and ".join(parts) if parts else "errors that do not matter"
    yield (
        f"{10 * _FILTER_CM:g} mm of aluminium before the tube that the spectrum lacks would be "
        f"taken for {taken}"
    )


def information_rows(found: WholeDetectorModel) -> Rows:
    """Standard deviations from the information matrix, of a pixel and of what is common."""
    pixel, shared = names_of(found)
    alone, population = (one.standard_deviations(pixel, shared) for one in information(found))
    n = len(pixel)
    rows = [
        [
            f"{one.name} ({one.unit})",
            _cell(alone[0], index),
            _cell(population[0], index),
            _cell(alone[1], index),
            _cell(population[1], index),
        ]
        for index, one in enumerate(pixel)
    ]
    rows += [
        [f"{one.name} ({one.unit})", "", "", _cell(alone[1], n + i), _cell(population[1], n + i)]
        for i, one in enumerate(shared)
    ]
    return Rows(
        "standard deviations from the information of the counts",
        [
            "unknown",
            "typical pixel, shared unknowns known",
            "with the population of the thresholds",
            "mean of the pixels, or shared",
            "with the population",
        ],
        rows,
    )


def _cell(values: Sequence[float], index: int) -> str:
    return f"{values[index]:.2g}"


def shared_numbers(found: WholeDetectorModel) -> dict[str, float]:
    """Dead times and amplitude with their standard deviations."""
    dead = found.dead_times
    total = 1e9 * (dead.paralysable_s + dead.nonparalysable_s)
    sd = found.covariance.shared.diagonal().clamp(min=0).sqrt()
    n_times = found.unknowns.n_times
    numbers = {}
    for j, keV in enumerate(dead.thresholds_keV.tolist()):
        numbers[f"dead_time_ns_{keV:g}keV"] = float(total[j])
        numbers[f"dead_time_sd_ns_{keV:g}keV"] = float(sd[j if n_times > 1 else 0])
        numbers[f"nonparalysable_ns_{keV:g}keV"] = 1e9 * float(dead.nonparalysable_s[j])
    if found.amplitude is not None:
        numbers["scatter_amplitude"] = found.amplitude
        numbers["scatter_amplitude_sd"] = found.amplitude_sd
    means = found.shared[found.unknowns.n_shared :]
    for keV, mean in zip(dead.thresholds_keV.tolist(), means.tolist(), strict=True):
        numbers[f"threshold_mean_keV_{keV:g}keV"] = mean
    return {k: v for k, v in numbers.items() if torch.tensor(v).isfinite()}
