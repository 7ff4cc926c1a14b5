"""Cost of decompositions: every method reaches the same minimum, and implicit memory is flat."""

import math
from functools import partial

import pytest
import torch
from support.proxies import fixed_scanner, small_proxy
from support.studies import in_context

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood, decompose
from pcctlearn.decomposition.polynomial import PolynomialDecomposition
from pcctlearn.decomposition.proxy_file import save_proxy
from pcctlearn.figures import caption, draw
from pcctlearn.phantoms.ellipsoids import head_phantom
from pcctlearn.runs.results import write_results
from pcctlearn.solvers.quadratic import Solution
from pcctlearn.studies import decomposition_cost
from pcctlearn.studies.decomposition_cost import DecompositionCost
from pcctlearn.tomography.geometry.cone import ConeBeam

ROWS = ("nelder_mead", "newton", "exact", "scipy")
BOX = {"water": (-5.0, 60.0), "calcium": (-7.75, 15.5)}


def cost_study(**options):
    parts = {
        "model": fixed_scanner(),
        "decomposition": partial(MaximumLikelihood, bounds_g_cm2=BOX),
        "geometry": ConeBeam(1, 8, 12, 3.0, 62.5, 109.7),
        "phantom": head_phantom(),
    }
    return DecompositionCost(
        **parts | {"widths": (8,), "n_steps": (5, 10), "n_repeats": 1} | options
    )


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    only = {"scipy": decomposition_cost._PEERS["scipy"]}  # others take seconds to load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decomposition_cost, "_PEERS", only)
        results = cost_study().run(in_context(folder))
    write_results(results, folder)
    return results, folder


def test_every_method_finds_the_minimum_of_double_precision(run):
    numbers = run[0].numbers
    assert all(isinstance(value, float) for value in numbers.values())
    for name in ROWS:
        assert numbers[f"{name}_largest_error_g_cm2"] <= 1e-4
        assert numbers[f"{name}_solved_percent"] == 100
        assert numbers[f"{name}_accurate_percent"] == 100
        seconds = numbers[f"{name}_forward_epoch_seconds"]
        assert seconds * numbers[f"{name}_forward_rays_per_second"] == pytest.approx(188.7e6, 1e-3)


def test_the_reference_in_double_precision_is_computed_once_for_all_layers(monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return decompose(*arguments, **options)

    monkeypatch.setattr(decomposition_cost, "decompose", counted)
    study = cost_study()
    study.errors(study.scan(), {})
    assert len(calls) == 1


def test_a_result_that_is_finite_and_wrong_is_not_accurate():
    exact = Solution(torch.zeros(4, 2), torch.tensor([True, True, True, False]))
    x = torch.tensor([[0.0, 0.009], [0.02, 0.0], [math.nan, 0.0], [0.0, 0.0]])
    numbers = decomposition_cost._error("rtk", exact, Solution(x, x.isfinite().all(-1)))
    assert numbers["rtk_solved_percent"] == 75
    assert numbers["rtk_accurate_percent"] == pytest.approx(100 / 3)


def test_an_untrained_proxy_has_a_speed_and_no_error(run):
    numbers, tables = run[0].numbers, run[0].tables
    assert numbers["proxy_forward_backward_rays_per_second"] > 0
    assert not any(name.startswith("proxy") and "error" in name for name in numbers)
    assert "proxy, untrained" in [row[0] for row in tables[0].rows]


def test_a_trained_proxy_has_errors(tmp_path):
    save_proxy(tmp_path / "proxy.pt", small_proxy().network, fixed_scanner())
    study = cost_study(proxy=str(tmp_path / "proxy.pt"))
    assert study.errors(study.scan(), {})["proxy_rms_error_g_cm2"] > 1e-5
    assert not study.untrained


def test_implicit_memory_is_flat_and_unrolled_memory_grows_in_proportion(run):
    numbers = run[0].numbers
    assert numbers["implicit_memory_growth_percent"] <= 5
    assert numbers["unrolled_memory_growth_percent"] == pytest.approx(100, rel=0.1)


def test_a_library_that_is_missing_is_left_out(monkeypatch, caplog):
    def missing(*_):
        raise ImportError("RTK is not installed: `pip install itk-rtk`")

    monkeypatch.setattr(decomposition_cost, "_PEERS", {"rtk": (missing, 10)})
    study = cost_study()
    with caplog.at_level("INFO"):
        assert not study.peers(study.scan())
    assert "pip install itk-rtk" in caplog.text


def test_the_figure_is_drawn_from_the_folder_alone(run, tmp_path):
    results, folder = run
    for name in results.figures:
        draw(name, folder).savefig(tmp_path / "figure.png", dpi=50)
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
        assert caption(name).endswith(".")


@pytest.mark.parametrize("n_steps", [[], [5], [10, 5], [5, 5], [0, 5]])
def test_numbers_of_steps_that_do_not_increase_are_rejected(n_steps):
    with pytest.raises(ValueError, match=r"study.n_steps=\[5,10,20,50\]"):
        cost_study(n_steps=n_steps)


def test_another_layer_than_the_exact_one_is_rejected():
    with pytest.raises(TypeError, match="decomposition=maximum_likelihood, got Polynomial"):
        cost_study(decomposition=PolynomialDecomposition)


def test_a_proxy_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match=r"none.pt.*give study.proxy=RUN/proxy.pt"):
        cost_study(proxy="none.pt")
