"""docs/geometry.md is up to date."""

from pathlib import Path


def test_the_page_agrees_with_its_script():
    from docs.make_geometry import FOLDER, page

    assert page() == (FOLDER / "geometry.md").read_text(), (
        "run PYTHONPATH=. python docs/make_geometry.py"
    )
    assert Path(FOLDER / "geometry.png").exists()
