"""Self-contained HTML report of a run: figures, tables, configuration and versions."""

import base64
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from pcctlearn.figures import caption, file_stem
from pcctlearn.metrics.errors import Rows
from pcctlearn.threads import threads

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_PACKAGES = ("torch", "pytorch-lightning", "numba", "xraylib", "numpy")


def page_of(name: str, summary: str, tables: Sequence[Rows], seconds: float) -> dict[str, Any]:
    """Plain values for a report that are known only at the end of the run."""
    script, *words = sys.argv
    program = Path(script).name
    typed = shlex.join([program, *words])
    return {
        "name": name,
        "summary": summary,
        "tables": [table._asdict() for table in tables],
        "command": f"python {typed}" if program.endswith(".py") else typed,
        "provenance": {
            "run time": f"{seconds:.1f} s",
            "threads": ", ".join(f"{n} ({library})" for library, n in threads().items()),
            "Python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            **{package: version(package) for package in _PACKAGES},
        },
    }


def render_report(folder: Path, page: Mapping[str, Any], drawn: Sequence[str], config: str) -> str:
    """One HTML page for the run in a folder, with its figures embedded.

    Args:
        folder: the run's folder, which holds the drawn figures.
        page: the result of ``page_of`` at the end of the run.
        drawn: names of the figures.
        config: resolved YAML of the run.
    """
    figures = [
        {
            "name": file_stem(name),
            "caption": caption(name),
            "png": base64.b64encode(
                (folder / "figures" / f"{file_stem(name)}.png").read_bytes()
            ).decode(),
        }
        for name in drawn
    ]
    environment = jinja2.Environment(autoescape=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(figures=figures, config=config, **page)
