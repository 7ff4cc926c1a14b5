"""Scatter kernels come back from their file as they were; a wrong file is refused by name."""

import json

import pytest
import torch
from support.kernels import kernels

from pcctlearn.scatter.kernel_parameters import KERNEL, KernelParameters


def test_a_file_gives_back_every_number(tmp_path):
    path = tmp_path / "kernels.json"
    written = kernels(alpha=torch.randn(2, 2))
    written.save(path)
    read = KernelParameters.load(path)
    for name in (*KERNEL, "water_rates", "water_weights"):
        assert torch.equal(getattr(read, name), getattr(written, name))
    for name in ("borders_cm", "water_per_cm", "source_to_detector_cm", "passport"):
        assert getattr(read, name) == getattr(written, name)


def test_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "kernels.json"
    with pytest.raises(FileNotFoundError, match="fit_kernels"):
        KernelParameters.load(path)
    kernels().save(path)
    content = json.loads(path.read_text())
    without = {name: value for name, value in content.items() if name != "beta"}
    ragged = {**content, "beta": [[1.0], [1.0, 2.0]]}
    for wrong in ("", "[]", "{}", json.dumps({**content, "quantity": "counts"})):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="damaged or not a file of scatter kernels"):
            KernelParameters.load(path)
    for wrong in (without, ragged):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="damaged or not a file of scatter kernels"):
            KernelParameters.load(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"borders_cm": [6.0, 12.0]}, "must have the shape"),
        ({"borders_cm": [-1.0]}, "borders_cm must be positive and rise"),
        ({"amplitude_per_cm2": torch.full((2, 2), float("nan"))}, "amplitude_per_cm2 of the"),
        ({"share": -torch.ones(2, 2)}, "share of the scatter kernels must be finite and not neg"),
        ({"sigma1_cm": torch.zeros(2, 2)}, "must be positive"),
        ({"water_per_cm": 0.0}, "water_per_cm of the scatter kernels must be positive"),
    ],
)
def test_numbers_that_are_no_kernels_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        kernels(**changes)
