"""Settings that determine a simulated scan, and a digest of them for the name of its folder."""

import hashlib
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

_NUMBER_OF_CASES = ("n_cases", "limit", "cache")  # settings without effect on a single scan


def recorded(simulator: Mapping[str, Any], cases: Mapping[str, Any]) -> str:
    """YAML of the settings of a simulator and a data set, as recorded in scan files.

    Keys that are null are left out, so that a new key whose default is null changes nothing.
    """
    kept = {key: value for key, value in cases.items() if key not in _NUMBER_OF_CASES}
    # materials: the basis of a decomposition, without effect on a scan
    model = {key: value for key, value in simulator["model"].items() if key != "materials"}
    scan = {**simulator, "model": model}
    return OmegaConf.to_yaml(OmegaConf.create(_without_null({"scan": scan, "datasets": kept})))


def _without_null(node: Any) -> Any:
    """Nested mappings without keys that are null and without mappings that are then empty."""
    if not isinstance(node, Mapping):
        return node
    parts = {key: _without_null(value) for key, value in node.items()}
    return {key: part for key, part in parts.items() if part is not None and part != {}}


def register_digest() -> None:
    """Define ``${scans_digest:}``: eight characters that identify the settings of the scans."""
    OmegaConf.register_new_resolver("scans_digest", _digest, replace=True)


def _digest(*, _root_: Any) -> str:
    parts: Any = (OmegaConf.to_container(_root_[key], resolve=True) for key in ("scan", "datasets"))
    return hashlib.sha256(recorded(*parts).encode()).hexdigest()[:8]
