"""The comparison of decompositions: its numbers, its tables, its figures, and wrong settings."""

import math
import re
from functools import partial

import pytest
import torch
from support.figures import words
from support.proxies import fixed_scanner, small_proxy
from support.scanners import SIX_BINS
from support.studies import in_context

from pcctlearn.decomposition.linearised import LinearisedDecomposition
from pcctlearn.decomposition.lookup import LookupDecomposition
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.decomposition.polynomial import PolynomialDecomposition
from pcctlearn.decomposition.proxy_file import save_proxy
from pcctlearn.figures import caption, draw
from pcctlearn.runs.results import write_results
from pcctlearn.studies.decomposition_comparison import DecompositionComparison

FITTED = {"water": 12.0, "calcium": 1.5}
METHODS = {
    "maximum_likelihood": MaximumLikelihood,
    "polynomial": partial(PolynomialDecomposition, range_g_cm2=FITTED),
    "lookup": partial(LookupDecomposition, range_g_cm2=FITTED),
    "linearised": partial(LinearisedDecomposition, range_g_cm2=FITTED),
}
MATERIALS = ("water", "calcium")


def comparison(**options):
    parts = {
        "model": fixed_scanner(),
        "decompositions": METHODS,
        "ranges_cm": {
            "box": {"water": [1.0, 9.0], "calcium": [0.1, 0.5]},
            "thin": {"water": [1.0, 3.0], "calcium": [0.1, 0.2]},
        },
        "photons": (1e5, 1e7),
        "n_side": 3,
        "n_draws": 1500,
        "n_map": 7,
        "n_timed": 300,
        "n_repeats": 1,
    }
    return DecompositionComparison(**parts | options)


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_proxy(folder / "proxy.pt", small_proxy().network, fixed_scanner())
    results = comparison(proxy=str(folder / "proxy.pt")).run(in_context(folder))
    write_results(results, folder)
    return results, folder


def test_every_method_has_all_numbers(run):
    results, _ = run
    assert all(isinstance(value, float) for value in results.numbers.values())
    keys = []
    for name in ("box", "thin"):
        keys += [f"{name}_{task}_rays_per_second_1e5" for task in ("forward", "forward_backward")]
        keys.append(f"{name}_not_converged_percent_1e7")
        for m in MATERIALS:
            of = f"{name}_{m}"
            keys += [f"{of}_clean_rmse_cm", f"{of}_bias_cm_1e5", f"{of}_sd_over_crlb_1e7"]
    wanted = {f"{key}.{method}" for key in keys for method in (*METHODS, "proxy")}
    assert wanted <= set(results.numbers)
    assert set(results.tabulated) < set(results.numbers)
    assert all(len(row) == len(t.columns) for t in results.tables for row in t.rows)


def test_methods_rank_as_their_theory_says(run):
    numbers = run[0].numbers
    for m in MATERIALS:
        error = {name: numbers[f"box_{m}_clean_rmse_cm.{name}"] for name in METHODS}
        assert max(error["lookup"], error["linearised"]) < error["polynomial"] / 10
        noise = {name: numbers[f"box_{m}_sd_over_crlb_1e7.{name}"] for name in METHODS}
        for name in ("maximum_likelihood", "lookup", "linearised"):
            assert noise[name] == pytest.approx(1, abs=0.05)  # 9 points of 1500 draws: 0.6 %
        assert noise["polynomial"] > 1.1
        bias = numbers[f"box_{m}_bias_cm_1e7.polynomial"]
        assert bias == pytest.approx(error["polynomial"], rel=1)
        assert numbers[f"box_{m}_crlb_cm_1e5"] == pytest.approx(
            10 * numbers[f"box_{m}_crlb_cm_1e7"], rel=1e-6
        )


def test_all_rays_of_the_range_converge_at_high_counts(run):
    numbers = run[0].numbers
    assert numbers["box_bright_percent_1e7"] == 100
    for method in METHODS:
        assert numbers[f"box_not_converged_percent_1e7.{method}"] == 0


def test_its_figures_are_drawn_from_the_folder_alone(run):
    results, folder = run
    for name in results.figures:
        figure = draw(name, folder)
        figure.savefig(folder / "figure.png", dpi=50)
        assert "water" in words(figure)
        assert caption(name).endswith(".")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_draws": 1}, "n_draws .* 1"),
        ({"photons": (1e4, 0.0)}, r"photons\[1\] .* 0"),
        ({"photons": ()}, r"empty: use study\.photons=\["),
        ({"photons": (1.2e5, 1.2e5 + 1e-3)}, r"use study\.photons=\[1\.2e5\]"),
        ({"ranges_cm": {}}, "ranges_cm is empty"),
        (
            {"ranges_cm": {"box": {"water": [30.0, 0.0], "calcium": [0.0, 3.0]}}},
            r"use study\.ranges_cm\.box\.water=\[LEAST,LARGEST\]",
        ),
        (
            {"ranges_cm": {"box": {"water": [0.0], "calcium": [0.0, 3.0]}}},
            r"use study\.ranges_cm\.box\.water=\[LEAST,LARGEST\]",
        ),
        (
            {"ranges_cm": {"box": {"water": [0.0, math.inf], "calcium": [0.0, 3.0]}}},
            r"ranges_cm\.box\.water must be finite",
        ),
        ({"ranges_cm": {"box": {"water": [0.0, 1.0]}}}, r"ranges_cm\.box .* calcium"),
        ({"model": fixed_scanner(materials=["water"])}, r"physics.materials=\[water,calcium\]"),
    ],
)
def test_wrong_settings_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        comparison(**options)


def test_a_proxy_of_another_scanner_is_rejected_before_the_run(run):
    _, folder = run
    with pytest.raises(ValueError, match="energy bins"):
        comparison(model=fixed_scanner(edges_keV=SIX_BINS), proxy=str(folder / "proxy.pt"))


def test_an_exposure_without_bright_rays_is_refused_and_the_remedy_works():
    with pytest.raises(ValueError, match="1e1 photons") as refused:
        comparison(photons=(1e7, 10.0))
    named = re.search(r"study\.photons of (\S+) or more", str(refused.value))
    assert named
    comparison(photons=(float(named.group(1)),))
    with pytest.raises(ValueError, match="ranges_cm"):
        comparison(photons=(float(named.group(1)) / 1.3,))


def test_exposures_of_equal_first_digits_have_results_of_their_own(tmp_path):
    some = {"maximum_likelihood": MaximumLikelihood, "polynomial": METHODS["polynomial"]}
    study = comparison(photons=(1.2e5, 1.4e5), decompositions=some, n_draws=2, n_timed=20)
    results = study.run(in_context(tmp_path))
    write_results(results, tmp_path)
    bounds = [results.numbers[f"box_water_crlb_cm_{e}"] for e in ("1.2e5", "1.4e5")]
    assert bounds[0] / bounds[1] == pytest.approx(math.sqrt(1.4 / 1.2), rel=1e-3)
    assert "box_bright_percent_1.2e5" not in results.tabulated
    assert "water" in words(draw("decomposition_comparison.bias_and_noise", tmp_path))


def test_a_proxy_that_does_not_exist_is_named_with_the_key_of_this_experiment():
    with pytest.raises(FileNotFoundError, match=r"none\.pt.*give study\.proxy=RUN/proxy\.pt"):
        comparison(proxy="none.pt")


def test_the_lattice_is_in_cm_and_its_area_densities_in_g_cm2():
    axes, A = comparison()._lattice("box", 3)
    torch.testing.assert_close(axes[0], torch.tensor([1.0, 5.0, 9.0]))
    torch.testing.assert_close(axes[1], torch.tensor([0.1, 0.3, 0.5]))
    torch.testing.assert_close(A[1, 2], torch.tensor([5.0, 0.5 * 1.55]))
