"""A configuration may name classes and functions of allowed packages only."""

import sys

import pytest
import torch

from pcctlearn.reading.targets import locate, require_allowed
from pcctlearn.tomography.geometry.planar import ParallelBeam

REFUSED = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "pcctlearn",
    "pcctlearn.",
    "pcctlearnx.Model",
    "torch.load",
    "torch.hub.load",
    "pcctlearn.app.entry.os.system",
    "pcctlearn.app.entry.ctypes.CDLL",
    "pcctlearn.scans.file.h5py.File",
    "pcctlearn.chain.torch.load",
    "torch.nn.Module.__init__.__globals__",
    "torch.nn.Module.__subclasses__",
    "torch.nn.modules.module.functools.partial",
    "torch.nn.modules.module.torch.load",
    "torch.optim.swa_utils.deepcopy",
    "pytorch_lightning.trainer.trainer.os.system",
    "pcctlearn.app.run.instantiate",
    "pcctlearn.scan.STAGES",
    "pcctlearn.app.run",
    "",
]


@pytest.mark.parametrize("name", REFUSED, ids=str)
def test_other_code_is_refused(name):
    with pytest.raises(ValueError, match=r"not allowed|must be the name|neither|imported there"):
        locate(name)


def test_allowed_names_are_imported():
    assert locate("pcctlearn.tomography.geometry.planar.ParallelBeam") is ParallelBeam
    assert locate("torch.optim.lr_scheduler.StepLR") is torch.optim.lr_scheduler.StepLR
    assert locate("torch.nn.MSELoss") is torch.nn.MSELoss
    assert callable(locate("pcctlearn.physics.spectrum.Spectrum.from_spekpy"))
    with pytest.raises(ValueError, match=r"pcctlearn\.solvers\.Nothing"):
        locate("pcctlearn.solvers.Nothing")


EVIL = {"_target_": "evil_package.run"}
HOSTILE = {
    "top": {"solvers": EVIL},
    "in a list": {"trainer": {"_target_": "pytorch_lightning.Trainer", "callbacks": [EVIL]}},
    "as an argument": {"losses": {"_target_": "torch.nn.Sequential", "_args_": [[EVIL]]}},
    "interpolated": {"solvers": {"_target_": "${name}"}},
    "no name": {"solvers": {"_target_": None}},
    "made by a resolver": {"solvers": "${oc.create:${text}}"},
    "in a default": {"solvers": "${oc.select:none,{_target_:evil_package.run}}"},
    "callback": {"hydra": {"callbacks": {"x": EVIL}}},
    "launcher": {"hydra": {"launcher": EVIL}},
    "sampler": {"hydra": {"sweeper": {"sampler": EVIL}}},
    "search space": {"hydra": {"sweeper": {"custom_search_space": "evil_package.run"}}},
    "log handler": {"hydra": {"job_logging": {"handlers": {"x": {"class": "evil_package.H"}}}}},
    "log factory": {"hydra": {"hydra_logging": {"handlers": {"x": {"()": "evil_package.H"}}}}},
    "log stream": {"hydra": {"job_logging": {"handlers": {"x": {"stream": "ext://evil_package.x"}}}}},
    "environment": {"hydra": {"job": {"env_set": {"LD_PRELOAD": "evil.so"}}}},
    "its own list": {"hydra": {"sweeper": {"params": {"allowed_targets": "[evil_package]"}}}},
}  # fmt: skip


@pytest.mark.parametrize("config", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_node_is_refused_at_every_place(config):
    with pytest.raises(ValueError, match=r"not allowed|must be the name|that builds a node|cannot"):
        require_allowed(config)


@pytest.fixture
def spy_package(tmp_path, monkeypatch):
    """A package outside the allow-list, whose import shows in sys.modules."""
    folder = tmp_path / "evil_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("def run():\n    return 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    sys.modules.pop("evil_package", None)


@pytest.mark.usefixtures("spy_package")
def test_a_package_is_imported_only_if_it_is_allowed():
    with pytest.raises(ValueError, match=r"allowed_targets=\[PACKAGE\]"):
        locate("evil_package.run")
    assert "evil_package" not in sys.modules
    require_allowed({"solvers": EVIL}, ["evil_package"])
    assert locate("evil_package.run", ["evil_package"])() == 1
