"""report.html from a run's folder: figures, tables, configuration; nothing is fetched."""

import base64
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jinja2

from pcctlearn.command.threads import threads
from pcctlearn.figures import caption, file_stem
from pcctlearn.metrics.errors import Rows

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_PACKAGES = ("torch", "pytorch-lightning", "numba", "xraylib", "numpy")


def render_report(
    folder: Path,
    name: str,
    summary: str,
    drawn: Sequence[str],
    config: str,
    seconds: float,
    tables: Sequence[Rows],
) -> str:
    """One self-contained page for the run in ``folder``, from its tables and figures."""
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
    provenance = {
        "run time": f"{seconds:.1f} s",
        "threads": ", ".join(f"{n} ({library})" for library, n in threads().items()),
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{package: version(package) for package in _PACKAGES},
    }
    script, *words = sys.argv
    environment = jinja2.Environment(autoescape=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        summary=summary,
        figures=figures,
        tables=tables,
        provenance=provenance,
        config=config,
        command=shlex.join(["python", Path(script).name, *words]),
    )
