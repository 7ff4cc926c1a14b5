"""The page on geometry says what the code does today."""

from pathlib import Path


def test_the_page_is_what_its_script_writes():
    from docs.make_geometry import FOLDER, page

    assert page() == (FOLDER / "geometry.md").read_text(), (
        "run PYTHONPATH=. python docs/make_geometry.py"
    )
    assert Path(FOLDER / "geometry.png").exists()
