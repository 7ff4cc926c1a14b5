"""Text is read up to a limit of size, and YAML up to a limit of nodes."""

import json

import pytest
import yaml

from pcctlearn.reading.text import read_json, read_text
from pcctlearn.reading.yaml_text import parse_yaml, read_yaml

CALLED = ("a table", "write it again")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_in_every_unicode_encoding(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_text("µ in cm²/g\n", encoding=encoding)
    assert read_text(path, *CALLED) == "µ in cm²/g\n"


def test_other_bytes_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("µ".encode("latin-1") + b"\n1,2\n")
    with pytest.raises(ValueError, match=r"a\.csv .*a table.*write it again"):
        read_text(path, *CALLED)


def test_a_file_of_terabytes_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole
    with pytest.raises(ValueError, match=r"1,100 GB.* 67\.11 MB"):
        read_text(path, *CALLED)


def test_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1.5]}), encoding="utf-8")
    assert read_json(path, *CALLED) == {"a": [1.5]}
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json .*a table"):
        read_json(path, *CALLED)


@pytest.mark.parametrize(
    "content", [{"a": [1, 2.5, "x", None, True], "b": {"c": "${d}"}}, ["x=1", "~y"], None, "word"]
)
def test_yaml_is_read_as_it_was_written(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert read_yaml(path, *CALLED) == content


def test_a_few_aliases_are_accepted():
    assert parse_yaml("a: &x [1, 2]\nb: *x\n", "a", *CALLED) == {"a": [1, 2], "b": [1, 2]}


def bomb(n_levels, member):
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for k in range(1, n_levels):
        lines.append(f"a{k}: &a{k} " + member(f"*a{k - 1}"))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(9, lambda alias: "[" + ", ".join([alias] * 9) + "]"),
        bomb(9, lambda alias: "{" + ", ".join(f"k{i}: {alias}" for i in range(9)) + "}"),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "[" * 20_000,
        "- x\n" * 70_000,
        "x: " + "y" * 300_000,
        "x: !!python/object/apply:os.system [touch here]",
        "x: [1",
        "\x00",
    ],
    ids=["lists", "mappings", "itself", "itself below", "deep", "long", "wide", "code", "open",
         "control"],
)  # fmt: skip
def test_hostile_yaml_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="write it again") as raised:
        parse_yaml(text, "a.h5 (config)", *CALLED)
    assert str(raised.value).startswith("a.h5 (config) ")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
