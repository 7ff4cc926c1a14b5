"""YAML of limited size."""

from pathlib import Path
from typing import Any

import yaml

from pcctlearn.reading.damaged import readable
from pcctlearn.reading.sizes import require_size
from pcctlearn.reading.text import read_text, shown

MOST_YAML_BYTES = 2**18  # a configuration has a few thousand
MOST_YAML_NODES = 2**16  # with aliases written out


def read_yaml(path: str | Path, what: str, remedy: str) -> Any:
    """The contents of a YAML file as ``parse_yaml`` returns them."""
    return parse_yaml(read_text(path, what, remedy, MOST_YAML_BYTES), str(path), what, remedy)


def parse_yaml(text: str, source: str, what: str, remedy: str) -> Any:
    """Mappings, lists and scalars of a YAML text; interpolations remain text.

    An alias may refer to a list of aliases, so that a few hundred bytes describe 10⁹ values. The
    nodes are counted with every alias written out before any of them is built.

    Args:
        text: the YAML.
        source: the file, for the message.
        what: the expected kind of text with its article.
        remedy: what to do, as an imperative.

    Raises:
        ValueError: it is not YAML, has a key twice, contains Python objects, or is too large.
    """
    require_size(source, len(text), remedy, MOST_YAML_BYTES)
    with readable(source, what, remedy):
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        n_nodes = 0 if root is None else _n_nodes(root, {})
    if n_nodes > MOST_YAML_NODES:
        raise ValueError(
            f"{source} describes more than {MOST_YAML_NODES} values with its aliases written out: "
            f"{remedy}"
        )
    if root is not None and (twice := _repeated(root)) is not None:
        raise ValueError(f"{source} has the key {shown(twice)} twice in one place: keep one")
    with readable(source, what, remedy):
        return yaml.safe_load(text)


def _repeated(node: yaml.Node) -> str | None:
    """A key that a mapping has twice, of which YAML would keep the last."""
    members = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in members if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            return str(twice[0])
        members = [value for _, value in members]
    return next((found for member in members if (found := _repeated(member)) is not None), None)


def _n_nodes(node: yaml.Node, counted: dict[int, int]) -> int:
    """Number of nodes with aliases written out; above the limit if a node contains itself."""
    if id(node) not in counted:
        counted[id(node)] = MOST_YAML_NODES + 1  # until its members are counted
        members = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            members = [part for pair in members for part in pair]
        counted[id(node)] = 1 + sum(_n_nodes(member, counted) for member in members)
    return counted[id(node)]
