"""Pile-up at several tube currents, and what its correction leaves at the edge of a cylinder."""

import pytest
import torch
from support.plates import cdte_scanner
from support.studies import in_context

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.figures import draw
from pcctlearn.runs.results import write_results
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.etb_pileup import EtbPileup, Readout
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

READOUT = Readout(40, 4e-6, 4e-6, False, 0.05, 3e3, 1e5, 1e5)  # dead times of ten times the usual


def study(**options):
    model = cdte_scanner()
    settings = {
        "plates_cm": {"aluminium": [0.0, 0.5, 1.0, 1.5, 2.0]},
        "currents_mA": [5.6, 1.4],
        "series_mA": [0.7, 1.4, 2.8, 4.0, 5.6, 7.0],
        "readout": READOUT,
        **options,
    }
    return EtbPileup(
        model.with_edges(torch.tensor([25.0, 45.0, 149.0]).double()),
        FanBeam(12, 56, 0.64, 75.0, 108.5),
        ImageGrid(48, 48, 0.5),
        EtbCal(normalisation="model", comparison="counts"),
        EtbCal(),
        DetectorErrors(0.0, 0.0005, (-0.002, 0.002), 0.2),
        **settings,
    )


@pytest.fixture(scope="module")
def results():
    return study().run(in_context())


def test_the_correction_removes_the_error_of_the_edge(results):
    key = "edge_error_percent_25keV"
    numbers = results.numbers
    without = {mA: numbers[f"{key}.no_pile-up_{mA}mA"] for mA in ("5.6", "1.4")}
    piled = {mA: numbers[f"{key}.uncorrected_{mA}mA"] - e for mA, e in without.items()}
    left = {mA: numbers[f"{key}.corrected_{mA}mA"] - e for mA, e in without.items()}
    assert piled["5.6"] > 2 * piled["1.4"] > 0
    assert abs(left["5.6"]) < 0.2 * piled["5.6"]


def test_the_dead_times_are_those_of_the_pulses(results):
    for keV in ("25keV", "45keV"):
        both = (
            results.numbers[f"paralysable_ns_{keV}"] + results.numbers[f"nonparalysable_ns_{keV}"]
        )
        assert both == pytest.approx(4000, rel=0.15)


def test_its_figures(results, tmp_path):
    write_results(results, tmp_path)
    for figure in results.figures:
        assert draw(figure, tmp_path).axes


def test_plates_without_air_are_refused():
    with pytest.raises(ValueError, match="plates_cm has no exposure without plates"):
        study(plates_cm={"aluminium": [0.5, 1.0, 1.5]})


def test_few_currents_are_refused():
    with pytest.raises(ValueError, match="2 currents do not determine two dead times"):
        study(series_mA=[1.0, 2.0]).run(in_context())
