"""Responses of the package equal those of the configuration."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import pcctlearn
from pcctlearn.resources import resource

ENERGIES = torch.arange(20.5, 121.0, 10.0, dtype=torch.float64)
EDGES = torch.tensor([15.0, 33.0, 45.0, 59.0], dtype=torch.float64)


@pytest.mark.parametrize("name", ["silicon", "cdte", "silicon_monte_carlo", "cdte_monte_carlo"])
def test_a_preset_equals_its_configuration(name):
    config = OmegaConf.load(resource("conf", "physics", "response", f"{name}.yaml"))
    written, preset = instantiate(config), getattr(pcctlearn.physics.response, name)()
    torch.testing.assert_close(preset.above(EDGES, ENERGIES), written.above(EDGES, ENERGIES))
