"""Names are printed without interpreting markup."""

import io

import pytest
from rich.table import Table

from pcctlearn.console import console, say

NAMES = ["[/b]", "[bold]", "a:smile:b", "[link=x]", "\\[b]", "{0}", "%s"]


@pytest.mark.parametrize("name", NAMES)
def test_say_prints_a_name_unchanged(name, capsys):
    say(f"{name} {'long ' * 40}end")
    assert capsys.readouterr().out == f"{name} {'long ' * 40}end\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_table_shows_names_unchanged(name):
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    printer = console()
    printer.file = io.StringIO()
    printer.print(table)
    assert printer.file.getvalue().count(name) == 3


def test_a_table_in_a_file_is_not_cut(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("name", *["a number"] * 15)
    table.add_row("x" * 30, *["1.234 ± 0.567"] * 15)
    printer = console()
    printer.file = io.StringIO()
    printer.print(table)
    assert printer.file.getvalue().count("1.234 ± 0.567") == 15
