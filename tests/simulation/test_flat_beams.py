"""Fan and parallel beams: simulated slices have one row of pixels and agree with a cone beam."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.configs import composed
from support.ct_files import write_nifti
from support.scanners import scanner

from pcctlearn.app import run
from pcctlearn.app.sentences import EXPECTED
from pcctlearn.figures.arrays import read_numbers
from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.patients.procedural import ProceduralCases
from pcctlearn.scans.file import faults, read_scan
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid

SLICE = ImageGrid(28, 24, 1.0)
FAN = FanBeam(9, 20, 2.5, 62.5, 109.7)
PARALLEL = ParallelBeam(9, 20, 1.5)
SMALL = ["scan=without_scatter", "datasets.n_cases=2", "tomography.geometry.n_views=12"]
SMALL += ["tomography.geometry.n_columns=24", "tomography.grid.n_y=24", "tomography.grid.n_x=24"]
SMALL += ["tomography.grid.voxel_cm=1.2"]


@pytest.fixture(autouse=True)
def _as_the_command():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def head(simulator):
    return ProceduralCases("head", 1).maps(0, simulator.grid)


def test_a_fan_is_a_cone_of_one_row():
    fan = ScanSimulator(FAN, SLICE, scanner(), noise=False)
    assert fan.grid == VolumeGrid(1, 28, 24, 1.0)
    cone = ConeBeam(9, 1, 20, 2.5, 62.5, 109.7)
    same = ScanSimulator(cone, replace(fan.grid, n_z=1), scanner(), noise=False)
    found, expected = (each.scan(head(fan), "head", 1) for each in (fan, same))
    assert found.at("counts").shape == (4, 9, 1, 20)
    torch.testing.assert_close(found.air, expected.air)
    torch.testing.assert_close(found.at("counts"), expected.at("counts"), rtol=1e-4, atol=0)


def test_a_parallel_beam_has_the_same_air_in_all_pixels():
    simulator = ScanSimulator(PARALLEL, SLICE, scanner())
    scan = simulator.scan(head(simulator), "head", 1)
    assert scan.air.shape == (4, 1, 20)
    assert torch.equal(scan.air, scan.air[..., :1].expand(4, 1, 20))
    assert scan.at("line_integrals").shape == (2, 9, 1, 20)


@pytest.mark.parametrize("beam", [FAN, PARALLEL])
def test_scatter_and_several_slices_are_refused(beam):
    with pytest.raises(ValueError, match=rf"{type(beam).__name__}.*scan=without_scatter"):
        ScanSimulator(beam, SLICE, scanner(), ObjectScatter(0.3))
    with pytest.raises(ValueError, match="n_z"):
        ScanSimulator(beam, VolumeGrid(2, 28, 24, 1.0), scanner())


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize(
    ("beam", "pixel_cm"), [("fan", 2.2), ("fan_bench", 1.8), ("parallel", 1.2)]
)
def test_the_command_makes_slices_and_draws_their_sinogram(tmp_path, beam, pixel_cm):
    words = [*SMALL, f"tomography={beam}", f"tomography.geometry.pixel_cm={pixel_cm}"]
    run.run(composed(tmp_path, *words, f"folder={tmp_path}", name="simulate"))
    for name in ("head_00000", "head_00001"):
        path = tmp_path / f"scans/{name}.h5"
        assert faults(path) == []
        assert read_scan(path).at("maps").shape == (2, 1, 24, 24)
    assert not any("spr" in name for name in read_numbers(tmp_path))  # there is no scatter
    for figure in ("primary_sinogram", "cases"):
        assert (tmp_path / f"figures/{figure}.png").stat().st_size > 0


def test_the_command_names_the_choice_without_scatter(tmp_path):
    words = [word for word in SMALL if not word.startswith("scan=")]
    config = composed(tmp_path, *words, "tomography=fan", f"folder={tmp_path}", name="simulate")
    with pytest.raises(EXPECTED, match="scan=without_scatter"):
        run.run(config)


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize("beam", ["fan", "parallel"])
def test_the_slice_of_a_ct_is_chosen(tmp_path, monkeypatch, beam):
    """A rod that begins 2 cm above the middle is in the slice at 4 cm only."""
    monkeypatch.setenv("PCCTLEARN_CACHE", str(tmp_path / "cache"))
    body = np.full((24, 40, 40), -1000, np.int16)
    body[2:22, 8:32, 8:32] = 40
    body[16:22, 14:17, 20:23] = 900
    path = write_nifti(tmp_path / "CT.nii.gz", body, (5.0, 5.0, 5.0))
    words = [*SMALL[:1], *SMALL[2:], f"tomography={beam}", "tomography.geometry.pixel_cm=1.8"]
    words += ["datasets=nifti", f"datasets.path={path}"]
    calcium = []
    for slice_cm in ("null", "4.0"):
        folder = tmp_path / slice_cm
        more = [f"datasets.slice_cm={slice_cm}", f"folder={folder}"]
        run.run(composed(tmp_path, *words, *more, name="simulate"))
        calcium.append(read_scan(folder / "scans/CT.h5").at("maps")[1].max())
    assert calcium[0] == 0
    assert calcium[1] > 0.1
