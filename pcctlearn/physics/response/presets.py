"""Responses of two detectors, each as a model and as a simulated table."""

from pathlib import Path

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


_SIMULATED = {
    "cdte_monte_carlo": (cdte_monte_carlo, "cdte_750um_pairs.npz"),
    "silicon_monte_carlo": (silicon_monte_carlo, "silicon_60mm_pairs.npz"),
}


def pairs_of(name: str | Path, response: Response | None = None) -> Pairs:
    """Pairs of events of a simulated response.

    Args:
        name: "cdte_monte_carlo", "silicon_monte_carlo", or the path of a ``_pairs.npz``.
        response: the response in use, which must be the simulated one of this name.

    Raises:
        ValueError: a response without pairs, or another response than that of the pairs.
    """
    name = str(name)
    if name in _SIMULATED:
        table, file = _SIMULATED[name]
        if response is not None and not (
            isinstance(response, Table)
            and torch.equal(response.response_per_keV.cpu(), table().response_per_keV)
        ):
            raise ValueError(
                f"pairs={name} belong to the simulated response of this detector: use them with "
                f"physics/response={name}"
            )
        return Pairs.from_file(resource("data", "physics", "response", file))
    if Path(name).suffix == ".npz":
        return Pairs.from_file(name)
    raise ValueError(
        f"the response {name} has no pairs of events: choose {' or '.join(_SIMULATED)}, or give "
        "the path of the _pairs.npz that `python simulate.py detector=cdte` writes beside its table"
    )
