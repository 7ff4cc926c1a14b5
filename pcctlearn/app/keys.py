"""Find unknown keys of a configuration, and suggest similar ones."""

import difflib
import inspect
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from pcctlearn.reading.targets import locate


def require_known(
    config: Mapping[str, Any], written: Mapping[str, Any], groups: Iterable[str]
) -> None:
    """Refuse unknown keys outside the nodes that are built.

    Keys inside a node with ``_target_`` are compared with its constructor by ``check_config``.

    Args:
        config: the composed configuration, plain and unresolved; ``hydra`` is skipped.
        written: the main file of the command, such as conf/train.yaml.
        groups: names of all groups in the defaults lists.

    Raises:
        ValueError: a key that is neither in the file nor a group, or a key of the file that is
            missing.
    """
    known: dict[str, Any] = {"study": None}  # an experiment sets it
    for group in groups:
        node = known
        for part in group.partition("@")[0].split("/"):
            node = node.setdefault(part, {})
    merged: Any = OmegaConf.to_container(OmegaConf.merge(known, dict(written)))
    _require(config, merged, "")
    if missing := [key for key in written if key not in ("hydra", "defaults", *config)]:
        raise ValueError(
            f"{missing[0]} was deleted from the configuration: leave out ~{missing[0]}"
        )


def unknown_key(
    key: str,
    value: str,
    config: Mapping[str, Any],
    more: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> str:
    """The message about a key that ``config`` lacks: how to add it, or a similar key."""
    parts = key.split(".")
    node: Any = config
    depth = 0
    while depth < len(parts) and isinstance(node, Mapping) and parts[depth] in node:
        node, depth = node[parts[depth]], depth + 1
    parent, name = ".".join(parts[:depth]), ".".join(parts[: depth + 1])
    if not isinstance(node, Mapping):
        return f"unknown key {key}: {parent} is a single value, set as {parent}=VALUE"
    if depth == len(parts):  # a mapping with keys that the one before lacks
        word = shlex.quote(f"++{key}={value}")
        return f"the value of {key} has keys that the configuration lacks: add it with {word}"
    accepted = list(node)
    if "_target_" in node:
        accepted = _parameters(node["_target_"], more) or accepted
        if parts[depth] in accepted and name == key:
            return f"{key} is not in the configuration: add it with +{key}={value}"
    elif not parent:
        accepted += groups
    return unknown(name, parent, accepted)


def _require(config: Mapping[str, Any], known: Mapping[str, Any], path: str) -> None:
    for key, node in config.items():
        if key == "hydra" and not path:
            continue
        where = f"{path}.{key}" if path else str(key)
        builds = isinstance(node, Mapping) and "_target_" in node
        if key not in known and not (builds and path and not known):  # a group of named objects
            raise ValueError(unknown(where, path, known))
        if isinstance(node, Mapping) and not builds and isinstance(known[key], Mapping):
            _require(node, known[key], where)


def unknown(name: str, parent: str, accepted: Iterable[str]) -> str:
    """The message about an unknown key, with the accepted ones and the most similar of them."""
    of_hydra = ("hydra", "defaults")
    accepted = [word for word in dict.fromkeys(accepted) if word.split("/")[0] not in of_hydra]
    head, _, last = name.rpartition(".")
    close = difflib.get_close_matches(last, accepted, n=1)
    guess = f"did you mean {head + '.' if head else ''}{close[0]}? " if close else ""
    below = f" below {parent}" if parent else ""
    return f"unknown key {name}: {guess}accepted{below}: {', '.join(accepted)}"


def _parameters(target: Any, more: Sequence[str]) -> list[str]:
    try:
        return list(inspect.signature(locate(target, more)).parameters)
    except (ValueError, TypeError):
        return []
