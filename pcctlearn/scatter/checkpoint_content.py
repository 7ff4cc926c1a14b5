"""Contents of a checkpoint, checked before anything is built from them."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcctlearn.reading.damaged import damaged, readable
from pcctlearn.reading.sizes import require_zip

KEY = "correction"  # entry beside the state_dict, in which names of the weights begin with PREFIX
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
_MOST_BINS = 64
_MOST_NESTED = 8  # nesting levels of a setting
_LARGEST = 2.0**53  # largest whole number below which floats are exact
_WHAT = "a checkpoint of a scatter correction"
_REMEDY = (
    "give the checkpoints/best.ckpt of a run of experiment=scatter_direct, scatter_cross_domain or "
    "scatter_kernel"
)


class Content(NamedTuple):
    """Settings of a correction, its weights, and its scanner."""

    spec: dict[str, Any]
    weights: dict[str, Tensor]
    bins_keV: list[float]
    geometry: dict[str, float]


def read_content(path: Path) -> Content:
    """Read settings and weights from a checkpoint; Python objects in it are never loaded.

    Raises:
        ValueError: the file is damaged, has other contents or impossible values.
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
    if "kind" in facts:
        raise ValueError("an earlier version of pcctlearn saved it: train the correction again")
    spec = _mapping(facts.get("spec"), "spec")
    for name, value in spec.items():
        _check_plain(value, f"the setting {str(name)[:60]}")
    bins_keV = facts.get("bins_keV")
    if not (isinstance(bins_keV, list) and 0 < len(bins_keV) <= _MOST_BINS):
        raise ValueError("bins_keV is not a list of energies")
    geometry = _mapping(facts.get("geometry"), "geometry")
    weights = {
        name.removeprefix(PREFIX): _tensor(name, value)
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(PREFIX)
    }
    return Content(
        spec,
        weights,
        [_number(value, "bins_keV", above=0.0) for value in bins_keV],
        {name: _number(geometry.get(name), f"geometry {name}") for name in GEOMETRY},
    )


def _check_plain(value: Any, name: str, levels: int = _MOST_NESTED) -> None:
    """Raise ValueError unless a setting consists of strings, numbers, lists and mappings."""
    if isinstance(value, dict | list | tuple) and levels > 0:
        for part in value.values() if isinstance(value, dict) else value:
            _check_plain(part, name, levels - 1)
    elif not isinstance(value, str | bool | None) and not (
        isinstance(value, int | float) and abs(value) <= _LARGEST
    ):
        raise ValueError(f"{name} is {str(value)[:60]}")


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} has no named values")
    return dict(value)


def _number(value: Any, name: str, above: float = -math.inf) -> float:
    if not (isinstance(value, int | float) and above < value < math.inf):
        raise ValueError(f"{name} is {str(value)[:40]}, which is not a possible value")
    return float(value)


def _tensor(name: str, value: Any) -> Tensor:
    """A tensor of finite weights that are all stored: a view may repeat a number 10¹² times."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        raise ValueError(f"{name} is not a tensor")
    if value.is_meta or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name} declares the shape {tuple(value.shape)}, but stores less")
    if value.is_complex() or not value.isfinite().all():
        raise ValueError(f"{name} contains NaN, infinity or complex numbers")
    return value
