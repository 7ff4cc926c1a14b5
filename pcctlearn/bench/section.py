"""Sections of a YAML file whose keys are known, with messages that name file and key."""

import difflib
from collections.abc import Collection
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

from pcctlearn.reading.text import shown


class Section:
    """A mapping of a YAML file, with typed access to its keys.

    Args:
        file: the YAML file; paths in it are relative to its folder.
        where: place of the mapping in the file, such as ``plates[1]``; empty at the top.
        node: what the file has there.
        accepted: keys that it may have.

    Raises:
        ValueError: not a mapping, or an unknown key.
    """

    def __init__(self, file: Path, where: str, node: Any, accepted: Collection[str]) -> None:
        self.file, self.where = file, where
        listed = ", ".join(accepted)
        if not isinstance(node, dict):
            found = "nothing" if node is None else shown(repr(node), 40)
            raise self.fault("", f"must have the keys {listed}, got {found}: see docs/bench.md")
        self.node = node
        for key in node:
            if key not in accepted:
                close = difflib.get_close_matches(str(key), list(accepted), n=1)
                guess = f"did you mean {close[0]}? " if close else ""
                raise self.fault(str(key), f"is unknown: {guess}accepted: {listed}")

    def fault(self, key: str, words: str) -> ValueError:
        """The error of a key: file, key, what is wrong with it, and a remedy."""
        return ValueError(f"{self.file}: {self.name(key) or 'the file'} {words}")

    def name(self, key: str) -> str:
        """The full name of a key, such as ``plates[1].log``."""
        return ".".join(part for part in (self.where, shown(key)) if part)

    def value(self, key: str, remedy: str) -> Any:
        """A value that must be there."""
        if self.node.get(key) is None:
            raise self.fault(key, f"is missing: {remedy}")
        return self.node[key]

    def number(self, key: str, remedy: str) -> float:
        """A positive number that must be there."""
        value = self.value(key, remedy)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
            raise self.fault(key, f"must be a positive number, got {shown(repr(value))}: {remedy}")
        return float(value)

    def whole(self, key: str, remedy: str, least: int = 1) -> int:
        """A whole number that must be there."""
        value = self.value(key, remedy)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            found = shown(repr(value))
            raise self.fault(key, f"must be a whole number from {least} on, got {found}: {remedy}")
        return value

    def texts(self, key: str, remedy: str) -> tuple[str, ...]:
        """One text or a list of them."""
        value = self.value(key, remedy)
        listed = value if isinstance(value, list) else [value]
        if not listed or not all(isinstance(text, str) and text for text in listed):
            raise self.fault(key, f"must be a text or a list, got {shown(repr(value))}: {remedy}")
        return tuple(listed)

    def path(self, key: str, remedy: str) -> Path:
        """A file in the folder of the YAML file."""
        texts = self.texts(key, remedy)
        if len(texts) != 1:
            raise self.fault(key, f"must be one file, got {len(texts)}: {remedy}")
        return self.file.parent / texts[0]

    def increasing(self, key: str, remedy: str) -> tuple[float, ...]:
        """A list of positive numbers that increase."""
        value = self.value(key, remedy)
        values = value if isinstance(value, list) else [value]
        good = all(isinstance(v, int | float) and isfinite(v) and v > 0 for v in values)
        if not values or not good or any(b <= a for a, b in pairwise(values)):
            found = shown(repr(value))
            raise self.fault(key, f"must be positive numbers that increase, got {found}: {remedy}")
        return tuple(float(v) for v in values)
