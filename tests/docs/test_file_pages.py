"""The pages of plate files and pixel models list every array of their schema, as it is."""

import pytest
from support.studies import REPOSITORY

from pcctlearn.calibration.pixel_model_file import PIXEL_MODEL
from pcctlearn.calibration.plate_file import PLATES


@pytest.mark.parametrize("schema", [PLATES, PIXEL_MODEL], ids=lambda schema: schema.title)
def test_a_page_lists_all_arrays(schema):
    page = (REPOSITORY / schema.page).read_text(encoding="utf-8")
    for name, array in schema.arrays.items():
        axes = array.axes.partition(" |")[0]
        assert f"| `{name}` | {axes} | {array.unit} |" in page.replace(" † ", " "), name
    for name, accepted in schema.choices.items():
        assert f"`{name}`" in page
        assert all(f'"{word}"' in page for word in accepted)
    for name in schema.attributes:
        assert f"`{name}`" in page
    assert f"`schema_version` = {schema.version}" in page
