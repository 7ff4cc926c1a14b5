"""The study of the proxy: a network in a file, its errors, its speed and its error maps."""

import pytest
from support.proxies import fixed_scanner, proxy_study
from support.studies import in_context

from pcctlearn.decomposition.polynomial import PolynomialDecomposition
from pcctlearn.decomposition.proxy import ProxyDecomposition
from pcctlearn.figures import caption, draw
from pcctlearn.runs.results import write_results


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    study = proxy_study()
    return study, study.run(in_context(folder)), folder


def test_its_numbers_are_known_before_the_run(run):
    study, results, _ = run
    assert list(results.numbers) == list(study.result_names)
    assert all(isinstance(value, float) for value in results.numbers.values())
    assert set(results.tabulated) < set(results.numbers)
    assert results.summary.endswith(".")


def test_its_network_is_usable_as_a_decomposition(run):
    _, results, folder = run
    layer = ProxyDecomposition(fixed_scanner(), str(folder / "proxy.pt"))
    assert sum(w.numel() for w in layer.network.parameters()) == results.numbers["n_weights"]


def test_errors_of_the_map_and_of_random_rays_agree(run):
    _, results, _ = run
    for material in ("water", "calcium"):
        over_box = results.arrays[f"map/{material}_error_cm"]
        assert over_box.shape == (7, 7)
        spread = over_box.square().nanmean().sqrt() / results.numbers[f"{material}_rmse_cm"]
        assert 0.3 < spread < 4  # the grid has corners
        slopes = results.arrays[f"map/{material}_jacobian_error"]
        assert (slopes[slopes.isfinite()] >= 0).all()


def test_its_figures_are_drawn_from_the_folder_alone(run, tmp_path):
    _, results, _ = run
    write_results(results, tmp_path)
    for name in results.figures:
        draw(name, tmp_path).savefig(tmp_path / "figure.png", dpi=50)
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
        assert caption(name).endswith(".")


def test_another_layer_than_the_exact_one_is_rejected():
    with pytest.raises(TypeError, match="decomposition=maximum_likelihood, got Polynomial"):
        proxy_study(decomposition=PolynomialDecomposition)


def test_three_materials_are_rejected():
    model = fixed_scanner(materials=["water", "calcium", "iodine"])
    with pytest.raises(ValueError, match=r"physics.materials=\[water,calcium\]"):
        proxy_study(model=model)
