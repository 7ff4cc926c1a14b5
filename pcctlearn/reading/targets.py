"""The allow-list of classes and functions that a configuration may name, checked before any import.

The list stops configurations that name other code directly. It is not a sandbox: an allowed class
may read and write files, so running someone's configuration still means running their code.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

ALLOWED = ("pcctlearn", "torch.nn", "torch.optim", "pytorch_lightning")
_OF_HYDRA = ("hydra._internal.core_plugins", "hydra_plugins", "optuna.samplers", *ALLOWED)
_LOG_CLASS = re.compile(r"logging(\.handlers)?\.[A-Z]\w*")
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_RESOLVED_NODE = re.compile(r"\$\{.*(_target_|oc\.create|oc\.decode)", re.DOTALL)
_REMEDY = "a package of your own is allowed with 'allowed_targets=[PACKAGE]' on the command line"


def require_allowed(config: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Check every ``_target_`` of a plain, unresolved configuration against the allow-list.

    Args:
        config: including the node ``hydra``, if there is one, since Hydra builds objects from it.
        more: packages allowed beside ``ALLOWED``.

    Raises:
        ValueError: a target outside the list, or a node whose targets cannot be seen before it is
            resolved.
    """
    for key, node in config.items():
        for path, value in _leaves(node, str(key)):
            name = path.rpartition(".")[2]
            if isinstance(value, str) and _RESOLVED_NODE.search(value):
                raise ValueError(
                    f"{path} is an interpolation that builds a node: write the node out"
                )
            if name == "_target_":
                _require(path, value, (*(_OF_HYDRA if key == "hydra" else ALLOWED), *more))
    if hydra := config.get("hydra"):
        _require_plain_hydra(hydra, more)


def locate(name: str, more: Sequence[str] = ()) -> Any:
    """Import the class or function of an allowed name, and only the modules that contain it.

    Raises:
        ValueError: the name is not allowed or does not exist, or its definition is outside the
            allowed packages.
    """
    packages = (*ALLOWED, *more)
    _require("_target_", name, packages)
    parts = name.split(".")
    try:
        found: Any = import_module(parts[0])
        for n, part in enumerate(parts[1:], 2):
            path = ".".join(parts[:n])
            if isinstance(found, ModuleType) and not hasattr(found, part):
                import_module(path)
            found = getattr(found, part)
            if isinstance(found, ModuleType) and found.__name__ != path:
                raise ValueError(f"{path} is the module {found.__name__}, imported there")
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {name}: {error}") from None
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        raise ValueError(f"{name} is neither a class nor a function")
    module = str(getattr(found, "__module__", None))
    if not _within(module, packages):
        raise ValueError(f"{name} is defined in {module}, which is not allowed: {_REMEDY}")
    return found


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{path}[{number}]")
    else:
        yield path, node


def _require(path: str, name: Any, packages: Sequence[str]) -> None:
    if not isinstance(name, str) or "${" in name:
        raise ValueError(f"{path} must be the name of a class or function, got {name!r}")
    # names with a leading underscore give access to other code, as in f.__globals__
    private = any(part.startswith("_") for part in _after(name, packages).split("."))
    if not _within(name, packages) or private or not all(map(str.isidentifier, name.split("."))):
        raise ValueError(
            f"{path}={name} is not allowed: it may name public classes and functions of "
            f"{', '.join(packages)}; {_REMEDY}"
        )


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _after(name: str, packages: Sequence[str]) -> str:
    return next((name.removeprefix(p + ".") for p in packages if name.startswith(p + ".")), name)


def _require_plain_hydra(hydra: Mapping[str, Any], more: Sequence[str]) -> None:
    """Refuse settings of Hydra that run or import code without a ``_target_``."""
    for group in ("job_logging", "hydra_logging"):
        for path, value in _leaves(hydra.get(group), f"hydra.{group}"):
            name, text = path.rpartition(".")[2], str(value)
            foreign = text.startswith(("ext://", "cfg://")) and text not in _STREAMS
            if name == "()" or foreign or (name == "class" and not _LOG_CLASS.fullmatch(text)):
                raise ValueError(f"{path}={text} is not allowed: use the classes of logging")
    job = hydra.get("job") or {}
    if job.get("env_set"):
        raise ValueError(
            "hydra.job.env_set is not allowed: set environment variables in the shell, before "
            "the command"
        )
    sweeper = hydra.get("sweeper") or {}
    if space := sweeper.get("custom_search_space"):
        _require("hydra.sweeper.custom_search_space", space, ("pcctlearn", *more))
    if "allowed_targets" in (sweeper.get("params") or {}):
        raise ValueError(f"hydra.sweeper.params cannot set allowed_targets: {_REMEDY}")
