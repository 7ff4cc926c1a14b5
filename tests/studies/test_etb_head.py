"""A head of pixels that differ: uniform once they are calibrated and bone is corrected."""

import pytest
import torch
from support.plates import cdte_scanner
from support.studies import in_context

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.figures import draw
from pcctlearn.runs.results import write_results
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.etb_head import EtbHead, bone_sectors
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid


@pytest.fixture(name="results", scope="module")
def _results():
    torch.set_default_dtype(torch.float64)
    study = EtbHead(
        cdte_scanner(),
        FanBeam(180, 224, 0.16, 75.0, 108.5),
        ImageGrid(128, 128, 0.2),
        calibrations={"etb": EtbCal()},
        errors=DetectorErrors(0.0035, 0.0012, (-0.006, 0.006), 0.3333),
        plates_cm={"default": {"aluminium": [0.0, 0.5, 1.0, 1.5, 2.0]}},
        regions_cm=[[0.0, -2.5], [-3.5, -2.0], [3.5, -2.0], [-3.0, -5.5], [0.5, -6.5]],
        voxel_cm=0.1,
        bone_margin_voxels=1,
        photons=1e8,
    )
    return study.run(in_context())


@pytest.mark.parametrize(("keV", "most"), [(40, 3.2), (60, 4.2)])
def test_the_brain_is_uniform_after_both_corrections(results, keV, most):
    def difference(key):
        return results.numbers[f"region_difference_HU_{keV}keV.{key}"]

    assert difference("bone.etb") < most
    assert difference("bone.etb") < difference("water.etb")
    assert difference("bone.etb") < difference("bone.uncorrected") / 2


def test_bone_has_its_calcium_and_energies_their_brain(results):
    for key in (
        "bone_range_percent",
        "bone_error_max_percent",
        "region_difference_HU_vmi51",
        "region_difference_HU_vmi78",
    ):
        before, after, true = (
            results.numbers[f"{key}.{name}"] for name in ("uncorrected", "etb", "true")
        )
        assert after < before
        assert after == pytest.approx(true, rel=0.2, abs=0.3)


def test_the_figures_are_drawn(results, tmp_path):
    write_results(results, tmp_path)
    for figure in results.figures:
        assert draw(figure, tmp_path).axes


def test_sectors_share_the_bone_without_its_edge():
    calcium = torch.zeros(60, 60)
    y, x = torch.meshgrid(torch.arange(60) - 29.5, torch.arange(60) - 29.5, indexing="ij")
    radius = torch.hypot(x, y)
    calcium[(radius > 20) & (radius < 26)] = 0.5
    sectors = bone_sectors(calcium, 1)
    total = torch.stack(sectors).sum(0)
    assert total.max() == 1
    assert (calcium[total > 0] == 0.5).all()
    sizes = torch.stack(sectors).sum((1, 2)).double()
    assert sizes.std() / sizes.mean() < 0.1
    with pytest.raises(ValueError, match="height_cm"):
        bone_sectors(torch.zeros(20, 20), 1)
