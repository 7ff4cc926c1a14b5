"""Check a composed configuration before anything is built from it."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf
from beartype.door import is_bearable
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

_NUMBERS = BeartypeConf(is_pep484_tower=True)  # an int is welcome where a float is wanted
_HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def check_config(config: DictConfig) -> None:
    """Hold every key of every node with a ``_target_`` against the constructor it will reach.

    Raises:
        ValueError: a key that the constructor does not take. TypeError: a value of another type.
    """
    for key, kind in (("seed", int), ("n_threads", int | None), ("objective", str | None)):
        _check_type(key, config[key], kind)
    _check_node(config, "")


def _check_node(node: Any, path: str) -> None:
    if isinstance(node, ListConfig):
        for i, item in enumerate(node):
            _check_node(item, f"{path}[{i}]")
        return
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node:
        _check_call(node, path)
    for key in node:
        _check_node(node[key], f"{path}.{key}" if path else str(key))


def _check_call(node: DictConfig, path: str) -> None:
    try:
        target: Callable[..., Any] = get_object(node["_target_"])
    except (ImportError, ValueError) as error:
        raise ValueError(f"{path}._target_ names nothing that can be imported: {error}") from None
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in node:
        if key in _HYDRA_KEYS:
            continue
        where = f"{path}.{key}"
        if key not in parameters:
            if takes_any:
                continue
            close = difflib.get_close_matches(str(key), parameters, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"{where} is no setting of {target.__name__}: {guess}it takes "
                + ", ".join(name for name in parameters if name != "self")
            )
        if not _builds_something(node[key]):
            _check_type(where, node[key], parameters[key].annotation)


def _builds_something(value: Any) -> bool:
    """Nodes that become objects, or hold such nodes, are checked by their own constructor."""
    if isinstance(value, DictConfig):
        return "_target_" in value or any(_builds_something(value[key]) for key in value)
    if isinstance(value, ListConfig):
        return any(_builds_something(item) for item in value)
    return False


def _check_type(where: str, value: Any, annotation: Any) -> None:
    if annotation is inspect.Parameter.empty:
        return
    if isinstance(value, DictConfig | ListConfig):
        value = OmegaConf.to_container(value, resolve=True)
    if annotation is float and isinstance(value, bool):
        good = False
    else:
        try:
            good = is_bearable(value, annotation, conf=_NUMBERS)
        except Exception:  # annotations that say nothing about plain values
            return
    if not good:
        wanted = getattr(annotation, "__name__", None) or str(annotation)
        raise TypeError(f"{where} must be {wanted.split('.')[-1]}, got {value!r}")
