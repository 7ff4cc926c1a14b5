"""Check a composed configuration before anything is built from it."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

from beartype import BeartypeConf
from beartype.door import is_bearable
from omegaconf import DictConfig, ListConfig, OmegaConf

from pcctlearn.app.keys import unknown
from pcctlearn.app.quoting import typed
from pcctlearn.reading.targets import locate

_NUMBERS = BeartypeConf(is_pep484_tower=True)  # accept an int for a float
_PLAIN = {"seed": int, "n_threads": int | None, "objective": str | None, "folder": str, "name": str}
_HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # to another key, by its full path


def check_config(config: DictConfig) -> None:
    """Compare the keys of every node with a ``_target_`` with the parameters of its constructor.

    Raises:
        ValueError: a key is not a parameter, or a ``_target_`` is outside the allow-list.
        TypeError: a value has the wrong type.
    """
    job = OmegaConf.select(config, "job", throw_on_resolution_failure=False)
    if not isinstance(job, DictConfig) or "_target_" not in job:
        raise TypeError(
            f"study must be built by an experiment, got {job!r}: choose one with experiment=NAME"
        )
    for key, kind in _PLAIN.items():
        if key in config:
            _check_type(key, config[key], kind)
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must lie in 0 … {2**32 - 1}, got {config.seed}")
    if config.n_threads is not None and config.n_threads < 1:
        raise ValueError(f"n_threads must be 1 or more, or null, got {config.n_threads}")
    allowed = list(config.get("allowed_targets") or [])
    _check_node(config, OmegaConf.to_container(config, resolve=False), "", allowed)


def _check_node(node: Any, raw: Any, path: str, allowed: list[str]) -> None:
    """Check a resolved node and the nodes below it; ``raw`` is the same node, unresolved.

    A value is reported by the key that it comes from, such as trainer.max_epochs for
    ``${trainer.max_epochs}``. A node that is referred to is checked only at its own place.
    """
    if not isinstance(node, DictConfig | ListConfig):
        return
    if isinstance(node, DictConfig) and "_target_" in node:
        _check_call(node, raw, path, allowed)
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        if not _REFERENCE.fullmatch(str(_raw(raw, key))):
            _check_node(node[key], _raw(raw, key), _source(raw, key, path), allowed)


def _check_call(node: DictConfig, raw: Any, path: str, allowed: list[str]) -> None:
    try:
        target: Callable[..., Any] = locate(node["_target_"], allowed)
    except ValueError as error:
        raise ValueError(f"{path}._target_: {error}") from None
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in map(str, node):
        if key in _HYDRA_KEYS or (takes_any and key not in parameters):
            continue
        if key not in parameters:
            accepted = [name for name in parameters if name != "self"]
            raise ValueError(unknown(f"{path}.{key}", path, accepted))
        if not _builds_something(node[key]):
            where = _source(raw, key, path)
            _check_type(where, node[key], parameters[key].annotation, f"{path}.{key}")


def _raw(raw: Any, key: Any) -> Any:
    """The unresolved value of a key; ``None`` below an interpolation."""
    return raw[key] if isinstance(raw, dict | list) else None


def _source(raw: Any, key: Any, path: str) -> str:
    """The key that the value of ``path.key`` comes from: itself, or the one it refers to."""
    value = _raw(raw, key)
    if isinstance(value, str) and (found := _REFERENCE.fullmatch(value)):
        return found[1]
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)


def _builds_something(value: Any) -> bool:
    """True if the node or a node below it has a ``_target_``; such nodes are checked separately."""
    if isinstance(value, DictConfig):
        return "_target_" in value or any(_builds_something(value[key]) for key in value)
    if isinstance(value, ListConfig):
        return any(_builds_something(item) for item in value)
    return False


def _check_type(where: str, value: Any, annotation: Any, used_as: str | None = None) -> None:
    if annotation is inspect.Parameter.empty:
        return
    if isinstance(value, DictConfig | ListConfig):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, bool) and annotation in (int, float, int | None, float | None):
        good = False
    else:
        try:
            good = all(
                is_bearable(part, annotation, conf=_NUMBERS) for part in (value, *_parts(value))
            )
        except Exception:  # annotations that do not describe plain values
            return
    if not good:
        plain = [kind for kind in get_args(annotation) if "Tensor" not in str(kind)]
        kinds = plain if "Tensor" in str(annotation) and plain else [annotation]
        names = [k.__name__ if isinstance(k, type) and not get_args(k) else str(k) for k in kinds]
        wanted = re.sub(r"\b(\w+\.)+", "", " | ".join(names))
        parameter = "" if used_as in (None, where) else f", for {used_as}"
        text = isinstance(value, int | float) and is_bearable("text", annotation, conf=_NUMBERS)
        remedy = f"; write text as {typed(where, str(value))}" if text else ""
        raise TypeError(f"{where} must be {wanted}{parameter}, got {value!r}{remedy}")


def _parts(value: Any) -> Iterator[Any]:
    """Copies of a nested value with one leaf each, as beartype checks one item of a list."""
    if isinstance(value, list):
        yield from ([part] for item in value for part in _parts(item))
    elif isinstance(value, dict):
        yield from ({key: part} for key, item in value.items() for part in _parts(item))
    else:
        yield value
