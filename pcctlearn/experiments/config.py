"""Check a composed configuration before anything is built from it."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

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
    check_nodes(config, objective=str | None)
    if not isinstance(config.study, DictConfig):
        raise TypeError(
            f"study must be built by an experiment, got {config.study!r}: choose one "
            "with experiment=NAME"
        )


def check_nodes(config: DictConfig, **kinds: Any) -> None:
    """The same without a study; ``kinds`` are the types of plain keys beside seed and n_threads."""
    for key, kind in {"seed": int, "n_threads": int | None, **kinds}.items():
        _check_type(key, config[key], kind)
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must lie in 0 … {2**32 - 1}, got {config.seed}")
    if config.n_threads is not None and config.n_threads < 1:
        raise ValueError(f"n_threads must be 1 or more, or null, got {config.n_threads}")
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
    for key in map(str, node):
        _check_node(node[key], f"{path}.{key}" if path else key)


def _check_call(node: DictConfig, path: str) -> None:
    try:
        target: Callable[..., Any] = get_object(node["_target_"])
    except (ImportError, ValueError) as error:
        raise ValueError(f"{path}._target_ names nothing that can be imported: {error}") from None
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in map(str, node):
        if key in _HYDRA_KEYS:
            continue
        where = f"{path}.{key}"
        if key not in parameters:
            if takes_any:
                continue
            close = difflib.get_close_matches(key, parameters, n=1)
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
    if isinstance(value, bool) and annotation in (int, float, int | None, float | None):
        good = False
    else:
        try:
            good = all(
                is_bearable(part, annotation, conf=_NUMBERS) for part in (value, *_parts(value))
            )
        except Exception:  # annotations that say nothing about plain values
            return
    if not good:
        plain = [kind for kind in get_args(annotation) if "Tensor" not in str(kind)]
        kinds = plain if "Tensor" in str(annotation) and plain else [annotation]
        names = [k.__name__ if isinstance(k, type) and not get_args(k) else str(k) for k in kinds]
        wanted = re.sub(r"\b(\w+\.)+", "", " | ".join(names))
        raise TypeError(f"{where} must be {wanted}, got {value!r}")


def _parts(value: Any) -> Iterator[Any]:
    """The same nest with one leaf each: beartype looks at one item of a list only."""
    if isinstance(value, list):
        yield from ([part] for item in value for part in _parts(item))
    elif isinstance(value, dict):
        yield from ({key: part} for key, item in value.items() for part in _parts(item))
    else:
        yield value
