"""Responses of two detectors, each as a model and as a simulated table."""

import torch

from pcctlearn.physics.response.analytic import Analytic
from pcctlearn.physics.response.base import Response
from pcctlearn.physics.response.pairs import Pairs
from pcctlearn.physics.response.table import Table
from pcctlearn.resources import resource


def silicon() -> Analytic:
    """Edge-on deep silicon, 60 mm: the parameters of conf/physics/response/silicon.yaml."""
    return Analytic("silicon", thickness_cm=6.0, sharing_keV=217.0, sharing_exponent=3.2)


def cdte() -> Analytic:
    """CdTe, 0.75 mm thick, 0.1 mm pixels: the parameters of conf/physics/response/cdte.yaml."""
    return Analytic(
        "CdTe",
        thickness_cm=0.075,
        sharing_keV=65.0,
        sharing_exponent=1.2,
        fluorescence_escape=0.45,
        fluorescence_capture=1.0,
    )


def silicon_monte_carlo() -> Table:
    """Edge-on deep silicon, 60 mm, simulated (`python simulate.py detector=silicon`)."""
    return Table.from_file(resource("data", "physics", "response", "silicon_60mm.csv"))


def cdte_monte_carlo() -> Table:
    """CdTe, 0.75 mm thick, 0.1 mm pixels, simulated (`python simulate.py detector=cdte`)."""
    return Table.from_file(resource("data", "physics", "response", "cdte_750um.csv"))


def simulated_pairs(sensor: str, response: Response) -> Pairs:
    """Pairs of events of a simulated response: ``sensor`` is "silicon" or "cdte".

    Raises:
        ValueError: another name, or ``response`` is not the simulated one of this sensor.
    """
    simulated = {
        "silicon": (silicon_monte_carlo, "silicon_60mm_pairs.npz"),
        "cdte": (cdte_monte_carlo, "cdte_750um_pairs.npz"),
    }
    if sensor not in simulated:
        raise ValueError(
            f"pairs of events are known for {' and '.join(simulated)}, got {sensor!r}: use "
            "study.pairs=cdte with physics/response=cdte_monte_carlo"
        )
    table, file = simulated[sensor]
    if not isinstance(response, Table) or not torch.equal(
        response.response_per_keV.cpu(), table().response_per_keV
    ):
        raise ValueError(
            f"pairs={sensor} belong to the simulated response of this sensor: use them with "
            f"physics/response={sensor}_monte_carlo"
        )
    return Pairs.from_file(resource("data", "physics", "response", file))
