"""Files of scatter kernels: round trip, and errors that name the file."""

import json

import pytest
import torch
from support.kernels import kernels

from pcctlearn.scatter.kernel_parameters import KERNEL, KernelParameters


def test_round_trip(tmp_path):
    path = tmp_path / "kernels.json"
    written = kernels(alpha=torch.randn(2, 2))
    written.save(path)
    read = KernelParameters.load(path)
    for name in (*KERNEL, "water_rates", "water_weights"):
        assert torch.equal(getattr(read, name), getattr(written, name))
    for name in ("borders_cm", "water_per_cm", "source_to_detector_cm", "passport"):
        assert getattr(read, name) == getattr(written, name)


def test_other_files_raise_an_error(tmp_path):
    path = tmp_path / "kernels.json"
    with pytest.raises(FileNotFoundError, match="fit_kernels"):
        KernelParameters.load(path)
    kernels().save(path)
    content = json.loads(path.read_text())
    without = {name: value for name, value in content.items() if name != "beta"}
    ragged = {**content, "beta": [[1.0], [1.0, 2.0]]}
    for wrong in ("", "[]", "{}", json.dumps({**content, "quantity": "counts"})):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"kernels\.json"):
            KernelParameters.load(path)
    for wrong in (without, ragged):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"kernels\.json"):
            KernelParameters.load(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"borders_cm": [6.0, 12.0]}, "borders_cm"),
        ({"borders_cm": [-1.0]}, "borders_cm .*-1"),
        ({"amplitude_per_cm2": torch.full((2, 2), float("nan"))}, "amplitude_per_cm2"),
        ({"share": -torch.ones(2, 2)}, "share .*negative"),
        ({"sigma1_cm": torch.zeros(2, 2)}, "sigma1_cm"),
        ({"water_per_cm": 0.0}, "water_per_cm .* 0"),
    ],
)
def test_impossible_parameters_raise_an_error(changes, words):
    with pytest.raises(ValueError, match=words):
        kernels(**changes)
