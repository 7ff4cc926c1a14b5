"""Figures are drawn from the folder of a run alone, with quantities and units on their axes."""

import inspect
import re
from importlib import import_module
from pkgutil import iter_modules

import pytest
from support.figures import words
from support.studies import STUDIES, finished

from pcctlearn import figures
from pcctlearn.figures import caption, draw, file_stem
from pcctlearn.runs.results import redraw, write_results


@pytest.fixture(name="folder")
def _folder(tmp_path, request):
    write_results(finished(request.param), tmp_path)
    return tmp_path


CASES = [
    (name, figure)
    for name in STUDIES
    for figure in (
        ["perturbation.tangent_planes"]
        if name == "perturbation"
        else ["calibration.calibration_curves", "calibration.slab_decomposition"]
        if "slabs" in name
        else [
            f"calibration.{figure}"
            for figure in (
                "scan_images",
                "phantom_images",
                "calibration_curves",
                "threshold_errors",
            )
        ]
    )
]


@pytest.mark.parametrize("name", STUDIES)
def test_all_figures_of_a_study_are_tested_below(name):
    assert set(finished(name).figures) == {figure for study, figure in CASES if study == name}


@pytest.mark.parametrize(("folder", "figure"), CASES, indirect=["folder"])
def test_a_figure_is_drawn_from_the_folder_alone(folder, figure):
    drawn = draw(figure, folder)
    drawn.savefig(folder / "figure.png", dpi=50)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("folder", "figure", "wanted"),
    [
        (
            "perturbation",
            "perturbation.tangent_planes",
            ["water (cm)", "calcium (cm)", "(%)", "(keV)"],
        ),
        (
            "thresholds_slabs",
            "calibration.calibration_curves",
            ["step", "loss", "threshold error (keV)"],
        ),
        ("thresholds_slabs", "calibration.slab_decomposition", ["water (cm)", "calcium (cm)"]),
        ("thresholds_phantom", "calibration.phantom_images", ["water (g/cm³)", "calcium (g/cm³)"]),
        (
            "thresholds_phantom",
            "calibration.scan_images",
            ["water (g/cm³)", "60 keV (HU)", "error (HU)"],
        ),
        ("thresholds_phantom", "calibration.threshold_errors", ["detector column", "error (keV)"]),
    ],
    indirect=["folder"],
)
def test_axes_have_a_quantity_and_a_unit(folder, figure, wanted):
    labels = words(draw(figure, folder))
    assert all(word in labels for word in wanted), labels


@pytest.mark.parametrize("folder", ["thresholds_slabs"], indirect=True)
def test_steps_are_whole_numbers(folder):
    for ax in draw("calibration.calibration_curves", folder).axes:
        ticks = ax.get_xticks()
        assert (ticks == ticks.round()).all()


def test_every_figure_has_a_caption():
    names = []
    for module in iter_modules(figures.__path__, f"{figures.__name__}."):
        for name, function in inspect.getmembers(import_module(module.name), inspect.isfunction):
            own = function.__module__ == module.name and name[0] != "_"
            if own and "folder" in inspect.signature(function).parameters:
                names.append(f"{module.name.rpartition('.')[2]}.{name}")
    drawn = [name for name in names if not name.startswith("arrays.")]
    assert len(drawn) > 15
    for name in drawn:
        assert re.fullmatch(r"[A-Z].{20,}\.", caption(name)), name


@pytest.mark.parametrize("folder", ["thresholds_slabs"], indirect=True)
def test_a_run_is_redrawn_from_its_folder(folder):
    assert redraw(folder) == list(finished("thresholds_slabs").figures)
    first = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert set(first) == {"calibration_curves.png", "slab_decomposition.png"}
    redraw(folder)
    assert first == {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}


def test_a_folder_without_a_run_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        redraw(tmp_path)


def test_a_figure_of_a_subject_is_named_after_it():
    name = "evaluation.slices:scan: 1.b"
    assert caption(name).startswith("scan: 1.b: Central slices")
    assert file_stem(name) == "scan: 1.b_slices"


@pytest.mark.parametrize(
    "name",
    ["calibration", "nothing.here", "style.new_figure", "os.remove", "..os.remove:x", "a.b.c"],
)
def test_only_figures_can_be_drawn(name, tmp_path):
    with pytest.raises(ValueError, match="not a figure"):
        draw(name, tmp_path)
