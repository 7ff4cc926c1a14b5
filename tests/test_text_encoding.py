"""Every text file is opened with an explicit encoding, so that no locale changes it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pcctlearn", "benchmarks", "data", "docs", ".ci")
FILES = [*ROOT.glob("*.py"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))]
OF_TEXT = {"read_text", "write_text", "open"}
# with an open of their own
OF_OTHER_KINDS = {"os", "gzip", "zipfile", "archive", "webbrowser", "Image"}


def without_encoding(source):
    """Lines that open a text file without an encoding."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        function = call.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        owner = getattr(getattr(function, "value", None), "id", "")
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        modes += [k.value.value for k in call.keywords if k.arg == "mode"]
        is_binary = name == "open" and any("b" in str(mode) and len(mode) < 4 for mode in modes)
        of_ours = name != "open" and isinstance(function, ast.Name)  # pcctlearn.reading.text
        has_encoding = "encoding" in {keyword.arg for keyword in call.keywords}
        if name in OF_TEXT and owner not in OF_OTHER_KINDS and not (is_binary or of_ours):
            yield from [] if has_encoding else [call.lineno]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_text_file_names_its_encoding(file):
    assert not list(without_encoding(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("line", "is_wrong"),
    [
        ("path.read_text()", True),
        ("path.write_text('b')", True),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("path.open()", True),
        ("path.open(newline='')", True),
        ("path.read_text(encoding='utf-8')", False),
        ("read_text(path, 'a table', 'write it again')", False),
        ("path.open('rb')", False),
        ("open(path, mode='wb')", False),
        ("os.open(path, flags)", False),
    ],
)
def test_the_check_finds_calls_without_an_encoding(line, is_wrong):
    assert bool(list(without_encoding(line))) == is_wrong
