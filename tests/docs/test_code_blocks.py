"""Every Python block of the documents runs, in the order of its document."""

import re

import matplotlib as mpl
import pytest
import torch
from support.documents import DOCUMENTS, code_blocks

# the sizes of a laptop scan, made small enough for a test
SMALLER = {
    r"n_views=360": "n_views=12",
    r"n_rows=300": "n_rows=12",
    r"n_columns=400": "n_columns=16",
    r"pixel_cm=0\.12": "pixel_cm=3.0",
    r"VolumeGrid\(160, 256, 256, 0\.1\)": "VolumeGrid(10, 16, 16, 1.6)",
    r"progress=True": "progress=False",
}
WITH_CODE = [d for d in DOCUMENTS if code_blocks(d.read_text(encoding="utf-8"), "python")]


@pytest.mark.parametrize("document", WITH_CODE, ids=lambda document: document.name)
@pytest.mark.usefixtures("annotations_off")
def test_the_blocks_of_a_document_run_in_order(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    torch.set_default_dtype(torch.float32)
    names: dict = {}
    for block in code_blocks(document.read_text(encoding="utf-8"), "python"):
        code = block
        for size, smaller in SMALLER.items():
            code = re.sub(size, smaller, code)
        exec(compile(code, document.name, "exec"), names)
    for value in names.values():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert value.isfinite().all()


def test_every_size_that_is_made_smaller_stands_in_a_document():
    code = "".join(
        block for d in WITH_CODE for block in code_blocks(d.read_text(encoding="utf-8"), "python")
    )
    assert [size for size in SMALLER if not re.search(size, code)] == []
