"""Figures of the cone-beam study, and the positions in the drawing of its scan geometry."""

from dataclasses import replace

import numpy as np
import pytest
from support.figures import words
from support.studies import TINY_VOLUME, cone_study, finished_cone, in_context, tiny_cone

from pcctlearn.figures import draw
from pcctlearn.figures.setup import draw_setup
from pcctlearn.runs.results import write_results
from pcctlearn.tomography.geometry.setup import Setup

BEAM = replace(
    tiny_cone(), n_columns=30, offset_cm=1.2, row_offset_cm=-0.7, axis_offset_cm=0.9, start_rad=0.3
)


@pytest.mark.parametrize(
    ("figure", "wanted"),
    [
        ("setup", ["x (cm)", "y (cm)", "z (cm)", "from above"]),
        ("central_slices", ["truth", "FDK, RMSE", "FISTA-TV", "axial: y (cm)", "sagittal", "HU"]),
        ("convergence", ["iteration or pass", "relative residual", "RMSE in the head (HU)"]),
    ],
)
def test_a_figure_is_drawn_from_the_folder_alone(tmp_path, figure, wanted):
    write_results(finished_cone(), tmp_path)
    drawn = draw(f"cone_reconstruction.{figure}", tmp_path)
    drawn.savefig(tmp_path / "figure.png", dpi=50)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    labels = words(drawn)
    assert all(word in labels for word in wanted), labels


def test_all_slices_have_the_same_display_window(tmp_path):
    write_results(finished_cone(), tmp_path)
    drawn = draw("cone_reconstruction.central_slices", tmp_path)
    images = [image for ax in drawn.axes for image in ax.get_images()]
    assert len(images) == 3 * 6
    assert {image.get_clim() for image in images} == {(-160.0, 240.0)}


def test_figures_of_a_run_with_one_method(tmp_path):
    results = cone_study(methods=["cgls"], photons=None).run(in_context())
    write_results(results, tmp_path)
    labels = {name.split(".")[1]: words(draw(name, tmp_path)) for name in results.figures}
    assert set(labels) == {"setup", "central_slices", "convergence"}
    assert "CGLS" in labels["central_slices"]
    assert "FISTA-TV" not in labels["central_slices"]
    assert "relative residual" in labels["convergence"]
    assert "from above" in labels["setup"]


def test_distances_and_offsets_of_the_drawing_are_those_of_the_scanner():
    s = Setup.of(BEAM, TINY_VOLUME, 7)
    np.testing.assert_allclose(s.source, BEAM.sources_cm()[7])
    assert s.source @ s.toward == pytest.approx(-BEAM.source_to_axis_cm)
    assert s.source @ s.columns == pytest.approx(-BEAM.axis_offset_cm)
    assert np.linalg.norm(s.foot - s.source) == pytest.approx(BEAM.source_to_detector_cm)
    middle = s.corners_cm.mean((0, 1)) - s.foot
    np.testing.assert_allclose(middle @ s.columns, BEAM.offset_cm)
    np.testing.assert_allclose(middle[2], BEAM.row_offset_cm)


def texts(figure):
    return {text.get_text() for ax in figure.axes for text in ax.texts}


def test_only_offsets_other_than_zero_are_labeled():
    offsets = {"offset_cm", "row_offset_cm", "axis_offset_cm"}
    assert offsets <= texts(draw_setup(Setup.of(BEAM, TINY_VOLUME, 5)))
    assert not offsets & texts(draw_setup(Setup.of(tiny_cone(), TINY_VOLUME, 5)))


@pytest.mark.parametrize("view", [1, 29])
def test_corners_and_ends_are_labeled(view):
    labels = texts(draw_setup(Setup.of(BEAM, TINY_VOLUME, view)))
    assert {"column 0", "column 29", "row 0", "row 23", "slice 0", "slice 23"} <= labels
    assert {"[k, 0, 0]", "[k, 19, 15]", "source_to_axis_cm = 62.5"} <= labels
