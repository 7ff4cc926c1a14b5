"""The report is one page that needs nothing else."""

import re

from support.studies import finished

from pcctlearn.experiments.results import redraw, write_results
from pcctlearn.figures import caption
from pcctlearn.metrics.errors import Rows
from pcctlearn.report import render_report


def page(folder, **changes):
    results = finished("thresholds_slabs")
    write_results(results, folder)
    redraw(folder)
    given = {"name": "thresholds_slabs", "summary": results.summary, "config": "seed: 0\n"}
    rows = [(key, f"{value:.6g}") for key, value in results.numbers.items()]
    tables = [Rows("Results", ("result", "value"), rows)]
    return render_report(
        folder, drawn=results.figures, seconds=1.23, tables=tables, **given | changes
    )


def test_nothing_is_fetched(tmp_path):
    html = page(tmp_path)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", html)
    assert not re.findall(r"<link|@import|url\(", html)
    assert html.count("data:image/png;base64,") == 2


def test_it_tells_numbers_captions_configuration_and_versions(tmp_path):
    html = page(tmp_path)
    results = finished("thresholds_slabs")
    for words in (*results.numbers, *map(caption, results.figures), "seed: 0", "torch", "1.2 s"):
        assert words in html


def test_words_of_the_user_are_no_markup(tmp_path):
    html = page(tmp_path, config="name: <script>alert(1)</script>")
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
