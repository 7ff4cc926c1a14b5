"""What the file of a correction holds, checked before anything is built from it."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcctlearn.reading.damaged import damaged, readable
from pcctlearn.reading.sizes import require_zip

KEY = "correction"  # beside the state_dict, where the weights begin with PREFIX
PREFIX = "chain.correct."
GEOMETRY = (
    "rows",
    "columns",
    "row_cm",
    "column_cm",
    "offset_cm",
    "row_offset_cm",
    "source_to_axis_cm",
    "source_to_detector_cm",
    "axis_offset_cm",
)
_MOST_BYTES = 2**31
_MOST_BINS, _MOST_STAGES, _MOST_CHANNELS, _MOST_PIXELS = 64, 64, 4096, 65536
_WHAT = "a checkpoint of a scatter correction"
_REMEDY = (
    "give the checkpoints/best.ckpt of a run of experiment=scatter_direct, scatter_cross_domain or "
    "scatter_kernel"
)


class Content(NamedTuple):
    """A kind of correction, what builds it, its weights, and the scanner that it was made for."""

    kind: str
    settings: dict[str, Any]
    weights: dict[str, Tensor]
    bins_keV: list[float]
    geometry: dict[str, float]


def read_content(path: Path) -> Content:
    """The facts and the weights in a checkpoint; Python objects in it are never loaded.

    Raises:
        ValueError: the file is damaged, of other contents, or holds a number that cannot be.
    """
    require_zip(path, _WHAT, _REMEDY, _MOST_BYTES)
    with readable(path, _WHAT, _REMEDY):
        content = torch.load(path, map_location="cpu", weights_only=True)
    try:
        return _checked(content)
    except ValueError as error:
        raise no_checkpoint(path, error) from None


def no_checkpoint(path: Path, error: Exception) -> ValueError:
    """The error for a file whose contents do not describe a correction."""
    return damaged(path, _WHAT, error, _REMEDY)


def _checked(content: Any) -> Content:
    facts, state = (_mapping(_mapping(content, "it").get(k), k) for k in (KEY, "state_dict"))
    settings = _mapping(facts.get("settings"), "settings")
    if facts.get("kind") == "network":
        _check_network(settings)
    elif facts.get("kind") != "kernel":
        raise ValueError(f"its kind is {facts.get('kind')!r}")
    bins_keV = facts.get("bins_keV")
    if not (isinstance(bins_keV, list) and 0 < len(bins_keV) <= _MOST_BINS):
        raise ValueError("bins_keV is no list of energies")
    geometry = _mapping(facts.get("geometry"), "geometry")
    weights = {
        name.removeprefix(PREFIX): _tensor(name, value)
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(PREFIX) and not name.endswith(".air")
    }
    return Content(
        facts["kind"],
        settings,
        weights,
        [_number(value, "bins_keV", above=0.0) for value in bins_keV],
        {name: _number(geometry.get(name), f"geometry {name}") for name in GEOMETRY},
    )


def _check_network(settings: Mapping[str, Any]) -> None:
    """Whole numbers in the ranges of a network that fits into memory."""
    checks: dict[str, Callable[[Any], bool]] = {
        "channels": lambda value: _counts(value, range(1, _MOST_STAGES + 1), _MOST_CHANNELS),
        "grid": lambda value: _counts(value, range(2, 3), _MOST_PIXELS),
        "panel": lambda value: _counts(value, range(2, 3), _MOST_PIXELS),
        "predicts": lambda value: value in ("scatter", "fraction"),
    }
    if unknown := set(settings) - set(checks):
        raise ValueError(f"its settings have other names: {', '.join(sorted(map(str, unknown)))}")
    for name, is_sound in checks.items():
        if not is_sound(settings.get(name)):
            raise ValueError(f"the setting {name} is {str(settings.get(name))[:60]}")


def _counts(value: Any, lengths: range, most: int) -> bool:
    """Whether a value is a list of so many counts, none of them larger than ``most``."""
    return (
        isinstance(value, list)
        and len(value) in lengths
        and all(type(n) is int and 1 <= n <= most for n in value)
    )


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} holds no named values")
    return dict(value)


def _number(value: Any, name: str, above: float = -math.inf) -> float:
    if not (isinstance(value, int | float) and above < value < math.inf):
        raise ValueError(f"{name} is {str(value)[:40]}, not a number that it can be")
    return float(value)


def _tensor(name: str, value: Any) -> Tensor:
    """Weights that are numbers, and as many as are stored: a view may repeat one 10¹² times."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        raise ValueError(f"{name} is no tensor")
    if value.is_meta or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name} declares the shape {tuple(value.shape)}, and stores less")
    if value.is_complex() or not value.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity, or complex numbers")
    return value
