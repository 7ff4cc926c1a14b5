"""Responses of two detectors, each as a model and as a simulated table."""

from pcctlearn.physics.response.analytic import Analytic
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


def simulated_pairs(sensor: str) -> Pairs:
    """Pairs of events of the simulated responses, for ``sensor`` "silicon" or "cdte"."""
    files = {"silicon": "silicon_60mm_pairs.npz", "cdte": "cdte_750um_pairs.npz"}
    if sensor not in files:
        raise ValueError(
            f"pairs of events are known for {' and '.join(files)}, got {sensor!r}: use "
            "study.pairs=cdte with physics/response=cdte_monte_carlo"
        )
    return Pairs.from_file(resource("data", "physics", "response", files[sensor]))
