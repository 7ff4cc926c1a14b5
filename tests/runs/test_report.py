"""The report is one self-contained HTML page."""

import re

from support.studies import finished

from pcctlearn.figures import caption
from pcctlearn.metrics.errors import Rows
from pcctlearn.runs.report import page_of
from pcctlearn.runs.results import redraw, write_results


def page(folder, config="seed: 0\n"):
    results = finished("thresholds_slabs")
    rows = [(key, f"{value:.6g}") for key, value in results.numbers.items()]
    tables = [Rows("Results", ("result", "value"), rows)]
    page = page_of("thresholds_slabs", results.summary, tables, seconds=1.23)
    write_results(results, folder, config, page=page)
    redraw(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_loads_no_other_file(tmp_path):
    html = page(tmp_path)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", html)
    assert not re.findall(r"<link|@import|url\(", html)
    assert html.count("data:image/png;base64,") == 2


def test_it_shows_numbers_captions_configuration_and_versions(tmp_path):
    html = page(tmp_path)
    results = finished("thresholds_slabs")
    for words in (*results.numbers, *map(caption, results.figures), "seed: 0", "torch", "1.2 s"):
        assert words in html


def test_html_in_the_configuration_is_escaped(tmp_path):
    html = page(tmp_path, config="name: <script>alert(1)</script>")
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
