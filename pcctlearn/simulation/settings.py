"""The settings that decide what a simulated scan holds, and a digest of them for its folder."""

import hashlib
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

_NOT_OF_A_SCAN = (
    "n_cases",
    "limit",
    "cache",
)  # of the cases: how many there are, not what is in one


def recorded(simulator: Mapping[str, Any], cases: Mapping[str, Any]) -> str:
    """YAML of a simulator's and a data set's settings, as scan files record it."""
    kept = {key: value for key, value in cases.items() if key not in _NOT_OF_A_SCAN}
    # the basis of a decomposition: the objects have materials of their own
    model = {key: value for key, value in simulator["model"].items() if key != "materials"}
    scan = {**simulator, "model": model}
    return OmegaConf.to_yaml(OmegaConf.create({"scan": scan, "datasets": kept}))


def register_digest() -> None:
    """Define ``${scans_digest:}``: eight characters that differ between sets of other settings."""
    OmegaConf.register_new_resolver("scans_digest", _digest, replace=True)


def _digest(*, _root_: Any) -> str:
    parts: Any = (OmegaConf.to_container(_root_[key], resolve=True) for key in ("scan", "datasets"))
    return hashlib.sha256(recorded(*parts).encode()).hexdigest()[:8]
