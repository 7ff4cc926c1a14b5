"""Simulated plates: counts above thresholds have no upper limit; wrong settings are refused."""

import re

import pytest
import torch
from hydra.errors import InstantiationException
from support.configs import composed

from pcctlearn.app.run import run
from pcctlearn.calibration.plate_file import read_plates

SMALL = ["datasets.n_columns=12", "n_threads=1"]


def plates(folder, *words):
    try:
        run(
            composed(folder, "datasets=plates", *SMALL, *words, f"folder={folder}", name="simulate")
        )
    except InstantiationException as error:
        raise error.__cause__ from None
    return read_plates(folder / "plates.h5").plates


def edges(*edges_keV):
    return f"physics.thresholds.edges_keV=[{','.join(map(str, edges_keV))}]"


@pytest.mark.parametrize("response", ["cdte_monte_carlo", "cdte"])
def test_the_last_edge_has_no_effect(tmp_path, response):
    words = [f"physics/response={response}", "physics.spectrum.tube_voltage_kV=100.0"]
    near, far = (
        plates(tmp_path / f"{last:g}", *words, edges(40.0, 60.0, last)) for last in (100.0, 149.0)
    )
    assert torch.equal(near.counts, far.counts)


def test_an_edge_within_the_spectrum_is_refused_and_the_remedy_can_be_typed(tmp_path):
    with pytest.raises(ValueError, match="no upper limit") as refused:
        plates(tmp_path / "a", edges(40.0, 60.0, 100.0))
    (remedy,) = re.findall(r"physics\S+", str(refused.value))
    assert plates(tmp_path / "b", remedy).pixel_shape == (1, 12)


def test_thresholds_closer_than_their_biases_are_refused_and_the_remedy_helps(tmp_path):
    with pytest.raises(ValueError, match=r"40\.1 keV.*40 keV") as refused:
        plates(tmp_path / "a", edges(40.0, 40.1, 149.0))
    (apart,) = re.findall(r"(\d+) keV or more apart", str(refused.value))
    plates(tmp_path / "b", edges(40.0, 40.0 + int(apart), 149.0))
    plates(tmp_path / "c", edges(40.0, 40.1, 149.0), "datasets.errors.bias_sd_keV=0.01")


@pytest.mark.parametrize("edges_keV", [(40.0, 149.0), (30.0, 45.0, 60.0, 149.0)])
def test_any_number_of_thresholds_can_be_typed(tmp_path, edges_keV):
    assert plates(tmp_path, edges(*edges_keV)).thresholds_keV.tolist() == [*edges_keV[:-1]]
