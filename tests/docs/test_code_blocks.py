"""Every Python block of the documents runs, in the order of its document."""

import re

import matplotlib as mpl
import pytest
import torch
from support.documents import DOCUMENTS, SMALLER, code_blocks, made_smaller

WITH_CODE = [d for d in DOCUMENTS if code_blocks(d.read_text(encoding="utf-8"), "python")]


@pytest.mark.parametrize("document", WITH_CODE, ids=lambda document: document.name)
@pytest.mark.usefixtures("annotations_off")
def test_the_blocks_of_a_document_run_in_order(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    torch.set_default_dtype(torch.float32)
    names: dict = {}
    for block in code_blocks(document.read_text(encoding="utf-8"), "python"):
        exec(compile(made_smaller(block), document.name, "exec"), names)
    for value in names.values():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert value.isfinite().all()


def test_every_size_that_is_made_smaller_stands_in_a_document():
    code = "".join(
        block for d in WITH_CODE for block in code_blocks(d.read_text(encoding="utf-8"), "python")
    )
    assert [size for size in SMALLER if not re.search(size, code)] == []
