"""Figures are drawn from the folder of a run alone, with words and units on their axes."""

import pytest
from studies import STUDIES, finished

from pcctlearn.experiments.results import write_results


@pytest.fixture(name="folder")
def _folder(tmp_path, request):
    write_results(finished(request.param), tmp_path)
    return tmp_path


def figures(name):
    return finished(name).figures


CASES = [
    (name, figure)
    for name in STUDIES
    for figure in (
        ["tangent_planes"]
        if name == "perturbation"
        else ["calibration_curves", "slab_decomposition"]
        if "slabs" in name
        else ["scan_images", "phantom_images", "calibration_curves", "threshold_errors"]
    )
]


@pytest.mark.parametrize("name", STUDIES)
def test_the_list_below_is_whole(name):
    assert set(figures(name)) == {figure for study, figure in CASES if study == name}


@pytest.mark.parametrize(("folder", "figure"), CASES, indirect=["folder"])
def test_each_is_drawn_from_the_folder_alone(folder, figure, request):
    name = request.node.callspec.params["folder"]
    drawn = figures(name)[figure](folder)
    drawn.savefig(folder / "figure.png", dpi=50)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


def words(figure):
    """Everything that the axes of a figure say about what they show."""
    parts = [(ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) for ax in figure.axes]
    return " | ".join(word for part in parts for word in part if word)


@pytest.mark.parametrize(
    ("folder", "figure", "wanted"),
    [
        ("perturbation", "tangent_planes", ["water (cm)", "calcium (cm)", "(%)", "(keV)"]),
        ("thresholds_slabs", "calibration_curves", ["step", "loss", "threshold error (keV)"]),
        ("thresholds_slabs", "slab_decomposition", ["water (cm)", "calcium (cm)"]),
        ("thresholds_phantom", "phantom_images", ["water (g/cm³)", "calcium (g/cm³)"]),
        ("thresholds_phantom", "scan_images", ["water (g/cm³)", "60 keV (HU)", "error (HU)"]),
        ("thresholds_phantom", "threshold_errors", ["detector column", "error (keV)"]),
    ],
    indirect=["folder"],
)
def test_axes_carry_word_and_unit(folder, figure, wanted, request):
    name = request.node.callspec.params["folder"]
    said = words(figures(name)[figure](folder))
    assert all(word in said for word in wanted), said
