"""evaluate.py turns scan files into files of counts, maps and images, and handles faulty scans."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from support.configs import composed
from support.scan_files import change, drop, edit, store
from support.scanners import scanner
from support.studies import REPOSITORY

from pcctlearn.app.run import run as run_job
from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.evaluation import evaluator as scan_evaluator
from pcctlearn.evaluation import folder as scan_folder
from pcctlearn.evaluation import job as evaluation
from pcctlearn.evaluation.judge import judge
from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.patients.procedural import ProceduralCases
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scans import file as scan_file
from pcctlearn.scans.data_set import usable_scans
from pcctlearn.scans.file import read_scan, write_scan
from pcctlearn.scans.validation import counts as count_checks
from pcctlearn.scatter import checkpoint as checkpoint_module
from pcctlearn.scatter import pencil_beams
from pcctlearn.scatter.checkpoint import SavedCorrection, save_correction
from pcctlearn.scatter.network import ScatterNetwork
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

VOLUME = VolumeGrid(24, 28, 24, (1.0, 0.9, 1.1), center_cm=(0.5, 0.0, 0.2))
GEOMETRY = ConeBeam(12, 8, 12, 3.84, 62.5, 109.7, arc_rad=4.18879)
TRUTH = ("primary", "scatter", "scatter_standard_error", "line_integrals", "maps")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "scans"
    folder.mkdir()
    scatter = ObjectScatter(0.3, chunk_histories=50, pixel_cm=3.84)
    made, cases = (
        ScanSimulator(GEOMETRY, VOLUME, scanner(), scatter, spr=0.1),
        ProceduralCases("head", 2),
    )
    for index, name in enumerate(cases.names):
        scan = made.scan(cases.maps(index, VOLUME), name, index)
        write_scan(folder / f"{name}.h5", scan)
    return folder


def checkpoint_of(path, geometry=GEOMETRY, model=None):
    torch.manual_seed(0)
    model = model or scanner()
    correction = ScatterNetwork(geometry, model, (6, 6), (2, 3), initial_scatter=0.01)
    torch.nn.init.normal_(correction.head.weight, std=0.2)
    save_correction(path, correction, geometry, model)
    return path


def using(path):
    """Overrides that select the network in a checkpoint."""
    return "scatter=network", f"scatter.checkpoint={path}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoint_of(tmp_path_factory.mktemp("run") / "best.ckpt")


@pytest.fixture(autouse=True)
def _as_the_command():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def copy(scans, tmp_path):
    path = tmp_path / "mine.h5"
    shutil.copy(scans / "head_00000.h5", path)
    return path


def run(scans, folder, *overrides):
    """The results, and the numbers of each scan."""
    words = [f"scans={scans}", f"folder={folder}", *overrides]
    try:
        run_job(composed(folder, *words, name="evaluate"))
    except InstantiationException as error:
        raise error.__cause__ from None  # as in the command
    by_scan = {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/scan.json")
    }
    return json.loads((folder / "results.json").read_text()), by_scan


def test_all_files_are_written_for_every_scan(scans, checkpoint, tmp_path):
    numbers, by_scan = run(scans.parent, tmp_path, *using(checkpoint), "vmi_keV=[60.0,45.5]")
    assert numbers["n_scans"] == 2
    assert numbers["dead_pixels"] == 0
    assert 0 < numbers["scatter_fraction_in_shadow_percent"] < 100
    assert set(by_scan) == {"head_00000", "head_00001"}
    pictures = ("figures/head_00001_slices.png", "figures/head_00001_noise.png")
    for name in ("arrays.h5", "report.html", *pictures):
        assert (tmp_path / name).stat().st_size > 0
    for folder in (tmp_path / name for name in by_scan):
        assert sorted(path.name for path in folder.iterdir()) == [
            "calcium.nii.gz",
            "noise_calcium.nii.gz",
            "noise_vmi_45.5keV.nii.gz",
            "noise_vmi_60keV.nii.gz",
            "noise_water.nii.gz",
            "projections.h5",
            "scan.json",
            "vmi_45.5keV.nii.gz",
            "vmi_60keV.nii.gz",
            "water.nii.gz",
        ]
        with h5py.File(folder / "projections.h5") as file:
            units = {name: file[name].attrs["unit"] for name in file if name != "dead_pixels"}
            assert {file[name].dtype for name in units} == {np.dtype("float32")}
            assert file["corrected_counts"].shape == (4, *GEOMETRY.shape)
            assert list(file["line_integrals"].attrs["materials"]) == ["water", "calcium"]
        assert units == {
            "corrected_counts": "photons",
            "scatter_fraction": "1",
            "line_integrals": "g/cm2",
        }


def test_the_files_hold_the_output_of_the_chain(scans, checkpoint, tmp_path):
    run(scans, tmp_path, *using(checkpoint))
    path = scans / "head_00000.h5"
    recorded = read_scan(path)
    model = recorded.spectral_model()
    correct = SavedCorrection(checkpoint)(recorded.geometry, model)
    image = MonoenergeticImages(model.materials, [60.0])
    gain = (model.air().detach()[:, None, None] / recorded.air)[:, None].float()
    box = {"water": [-5.0, 60.0], "calcium": [-7.75, 15.5]}
    decompose = MaximumLikelihood(model, bounds_g_cm2=box)
    with torch.no_grad():
        chain = Chain(decompose, fbp(recorded.geometry, recorded.grid), image, correct)
        expected = chain((recorded.at("counts") * gain)[None], until="maps")
    with h5py.File(tmp_path / "head_00000/projections.h5") as file:
        for stage in ("corrected_counts", "scatter_fraction", "line_integrals"):
            wanted = expected.at(stage)[0]
            if stage == "corrected_counts":
                wanted = wanted / gain  # on the scale of the file's air
            np.testing.assert_allclose(file[stage][()], wanted, rtol=1e-4, atol=1e-4, err_msg=stage)
    path = tmp_path / "head_00000/vmi_60keV.nii.gz"
    stored = np.asarray(nib.load(path).dataobj)[::-1, ::-1].transpose(2, 1, 0)
    known = GEOMETRY.visible_in_z(VOLUME)
    wanted = image.hounsfield(expected.at("maps"))[0, 0].numpy()
    np.testing.assert_allclose(stored[known], wanted[known], rtol=1e-4, atol=0.05)
    assert np.isnan(stored[~known]).all()
    assert 0 < known.mean() < 1, "the volume must be longer than the panel covers"


def test_errors_equal_those_of_a_study(scans, checkpoint, tmp_path):
    numbers, by_scan = run(scans, tmp_path, *using(checkpoint))
    model = read_scan(scans / "head_00000.h5").spectral_model()
    correct = SavedCorrection(checkpoint)(GEOMETRY, model)
    image = MonoenergeticImages(model.materials, [60.0])
    chain = Chain(MaximumLikelihood(model), fbp(GEOMETRY, VOLUME), image, correct)
    wanted = judge(chain, usable_scans(sorted(scans.iterdir()), model.air())).errors.summary()
    assert len(wanted) > 40  # with and without noise
    for name, value in wanted.items():
        assert numbers[name] == pytest.approx(value, rel=1e-3), name
    assert by_scan["head_00001"]["errors"]["corrected"]["vmi60_rmse_HU"] > 0
    of_scans = [scan["errors_from_truth"]["rms"]["vmi60_error_HU"] for scan in by_scan.values()]
    assert numbers["vmi60_error_HU.rms"] == pytest.approx(np.mean(of_scans))
    titles = (tmp_path / "report.html").read_text()
    assert titles.index("due to scatter") < titles.index("true object")


def test_without_correction_and_truth(copy, tmp_path):
    for name in (*TRUTH, "seed"):
        change(copy, drop(name) if name in TRUTH else lambda file: file.attrs.pop("seed"))
    numbers, by_scan = run(copy, tmp_path / "out", "scatter=none", "noise_maps=false")
    assert set(numbers) == {
        "n_scans",
        "rays_not_converged_percent",
        "dead_pixels",
        "voxels_unknown_percent",
        "slices_with_unknown_voxels",
        "object_cut_off_percent",
    }
    assert by_scan["mine"]["errors"] == by_scan["mine"]["errors_from_truth"] == {}
    assert "true object" not in (tmp_path / "out/report.html").read_text()
    with h5py.File(tmp_path / "out/mine/projections.h5") as file:
        assert set(file) == {"counts", "line_integrals", "dead_pixels"}
    assert (tmp_path / "out/mine/calcium.nii.gz").is_file()
    assert not list(tmp_path.glob("out/*/*noise*"))


def test_kernels_are_fitted_once_per_scanner(scans, tmp_path, monkeypatch):
    calls, fit = [], pencil_beams.fit_kernels

    def few(*arguments, n_histories, **settings):
        calls.append(n_histories)
        return fit(*arguments, n_histories=2000, **settings)

    monkeypatch.setattr(pencil_beams, "fit_kernels", few)
    words = ["scatter=kernel", "scatter.correction.grid_transmission=0.3"]
    numbers, _ = run(scans, tmp_path, *words)
    assert calls == [64_000]
    assert numbers["scatter_fraction_in_shadow_percent"] > 0


def test_dead_pixels_are_filled_and_listed(scans, copy, checkpoint, tmp_path, capsys):
    change(copy, edit("counts", (1, 4, 2, 3), np.nan))
    change(copy, edit("air", (slice(None), 7, 11), 0))
    change(copy, edit("air", (2, 0, 0), np.nan))
    numbers, by_scan = run(copy, tmp_path / "out", *using(checkpoint))
    assert numbers["dead_pixels"] == 3
    assert by_scan["mine"]["dead_pixels"] == [[0, 0], [2, 3], [7, 11]]
    assert "(0, 0), (2, 3), (7, 11) (row, column)" in " ".join(capsys.readouterr().out.split())
    run(scans / "head_00000.h5", tmp_path / "whole", *using(checkpoint))
    paths = (tmp_path / name / "projections.h5" for name in ("out/mine", "whole/head_00000"))
    counts, whole = (h5py.File(path)["corrected_counts"][()] for path in paths)
    assert np.isfinite(counts).all()
    assert not np.array_equal(counts[:, :, 2, 3], whole[:, :, 2, 3])


def test_a_checkpoint_of_a_different_geometry_is_reported(scans, tmp_path, caplog):
    other = replace(GEOMETRY, source_to_axis_cm=70.0)
    path = checkpoint_of(tmp_path / "other.ckpt", other)
    _, by_scan = run(scans, tmp_path / "out", *using(path))
    (difference,) = by_scan["head_00000"]["differences"]
    assert "source_to_axis_cm 70" in difference
    assert difference in caplog.text
    assert (tmp_path / "out/report.html").read_text().count(difference) == 1


def test_materials_without_a_known_density(copy, tmp_path, caplog):
    for name in ("line_integrals", "maps"):
        change(copy, lambda file, name=name: file[name].attrs.update(materials=["water", "I"]))
    _, by_scan = run(copy, tmp_path / "out", "scatter=none")
    assert by_scan["mine"]["errors"] == {}
    assert "density is unknown for I" in caplog.text
    assert (tmp_path / "out/mine/I.nii.gz").is_file()


def test_thresholds_of_every_pixel(scans, copy, checkpoint, tmp_path):
    change(
        copy,
        lambda file: store(
            file, "thresholds_keV", np.broadcast_to(file["thresholds_keV"][()], (8, 12, 5))
        ),
    )
    numbers, _ = run(copy, tmp_path / "each", *using(checkpoint))
    shared, _ = run(scans / "head_00000.h5", tmp_path / "one", *using(checkpoint))
    vmi = "noisy_vmi60_rmse_HU"
    assert numbers[vmi] == pytest.approx(shared[vmi], rel=1e-2)
    with pytest.raises(ValueError, match=r"thresholds .* pixel"):
        run(copy, tmp_path / "kernel", "scatter=kernel")


def without_truth(path):
    for name in TRUTH:
        change(path, drop(name))


def test_voxels_whose_rays_miss_the_panel_are_unknown(copy, tmp_path, caplog):
    _, by_scan = run(copy, tmp_path / "out", "scatter=none")
    numbers = by_scan["mine"]["numbers"]
    known = GEOMETRY.visible_in_z(VOLUME)
    assert numbers["voxels_unknown_percent"] == pytest.approx(100 * (~known).mean())
    assert numbers["slices_with_unknown_voxels"] == (~known).any((1, 2)).sum()
    assert "n_z" in caplog.text
    assert "(NaN)" in (tmp_path / "out/report.html").read_text()


def disc_scan(path, material="iodine", n_views=60):
    """A full-turn scan of a water cylinder with a rod of another material, without the truth."""
    model = scanner(["water", material])
    grid = VolumeGrid(6, 24, 24, (0.8, 0.6, 0.6))
    beam = ConeBeam(n_views, 8, 36, 0.9, 62.5, 109.7)
    y, x = np.meshgrid(*2 * [np.linspace(-7, 7, 24)], indexing="ij")
    maps = torch.zeros(2, *grid.shape)
    maps[0] = torch.from_numpy(x**2 + y**2 < 36)
    maps[1] = torch.from_numpy((x - 2) ** 2 + y**2 < 4) * 0.02
    write_scan(path, ScanSimulator(beam, grid, model, noise=False).scan(maps, "disc", 0))
    without_truth(path)
    return maps


def stored_volume(path):
    """(z, y, x), the order of axes in pcctlearn."""
    return np.asarray(nib.load(path).dataobj)[::-1, ::-1].transpose(2, 1, 0)


def test_the_chosen_basis_recovers_the_scanned_material(tmp_path, caplog):
    """A measured scan, here of water and iodine, names no materials."""
    path = tmp_path / "iodine.h5"
    maps = disc_scan(path)
    run(path, tmp_path / "chosen", "scatter=none", "materials=[water,iodine]")
    iodine = stored_volume(tmp_path / "chosen/iodine/iodine.nii.gz")
    inside = (maps[1] > 0).numpy()[2:4]
    assert iodine[2:4][inside].mean() == pytest.approx(20, rel=0.1)
    assert not (tmp_path / "chosen/iodine/calcium.nii.gz").exists()
    run(path, tmp_path / "default", "scatter=none")
    assert "water and calcium" in caplog.text
    assert (tmp_path / "default/iodine/calcium.nii.gz").is_file()


def test_errors_in_another_basis(copy, tmp_path):
    numbers, _ = run(copy, tmp_path / "out", "scatter=none", "materials=[water,iodine]")
    same = run(copy, tmp_path / "same", "scatter=none")[0]
    for name in ("spr_percent_uncorrected", "vmi60_rmse_HU_uncorrected"):  # in any basis
        assert numbers[name] == pytest.approx(same[name], rel=0.2), name
    assert 0 < numbers["projection_iodine_rmse_cm_uncorrected"] < 0.1


def test_missing_views_can_be_left_out(tmp_path):
    """The remedy in the message: remove the views and list the angles of the others."""
    path = tmp_path / "disc.h5"
    disc_scan(path, "calcium", n_views=90)
    run(path, tmp_path / "whole", "scatter=none")
    change(path, edit("counts", (slice(None), slice(30, 32)), np.nan))
    with pytest.raises(ValueError, match="measured_angles_rad"):
        run(path, tmp_path / "out", "scatter=none")
    kept = [view for view in range(90) if view not in (30, 31)]
    angles = np.asarray(read_scan(path).geometry.angles_rad)[kept]

    def left_out(file):
        store(file, "counts", file["counts"][()][:, kept])
        file["geometry"].attrs["n_views"] = len(kept)
        file["geometry/measured_angles_rad"] = angles
        file["geometry/measured_angles_rad"].attrs["unit"] = "rad"

    change(path, left_out)
    run(path, tmp_path / "out", "scatter=none")
    water, wanted = (
        stored_volume(tmp_path / name / "disc/water.nii.gz") for name in ("out", "whole")
    )
    known = np.isfinite(wanted)
    assert np.sqrt(np.square(water - wanted)[known].mean()) < 10  # mg/mL, of 1000


def test_the_example_in_the_documentation_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs/scan_file.md").read_text(encoding="utf-8")
    exec(page.split("```python\n")[1].split("```")[0], {})
    numbers, _ = run(tmp_path / "my_scan.h5", tmp_path / "out", "scatter=none")
    assert numbers["dead_pixels"] == 0
    water = stored_volume(tmp_path / "out/my_scan/water.nii.gz")
    assert np.isfinite(water).any()


FAULTS = {
    "no air": (drop("air"), "air .* bin row column"),
    "no spectrum": (drop("spectrum"), "no spectrum"),
    "missing views": (
        edit("counts", (slice(None), slice(3, 5)), np.nan),
        r"2 of 12 views .*\(3, 4\).* geometry/measured_angles_rad",
    ),
    "many dead": (
        edit("counts", (0, 0, 0), np.nan),
        r"12 of 96 pixels .*12.5 %; 12 NaN.*max_dead_share=0.05",
    ),
    "infinite": (edit("counts", (0, 0, 0, 0), np.inf), "counts: 1 .* infinite"),
    "negative": (edit("counts", (0, 0, 0, 0), -9), "counts: 1 .* negative"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_scan_is_rejected(copy, tmp_path, case):
    damage, words = FAULTS[case]
    change(copy, damage)
    with pytest.raises(ValueError, match=f"mine.h5.*{words}"):
        run(copy, tmp_path / "out", "scatter=none")
    assert not list((tmp_path / "out").glob("*"))


def test_a_faulty_scan_does_not_stop_the_others(scans, tmp_path):
    folder = tmp_path / "scans"
    shutil.copytree(scans, folder)
    run(folder, tmp_path / "out", "scatter=none")
    change(folder / "head_00000.h5", FAULTS["missing views"][0])
    with pytest.raises(ValueError, match=r"1 of 2 scans .*head_00000"):
        run(folder, tmp_path / "out", "scatter=none")
    assert json.loads((tmp_path / "out/results.json").read_text())["n_scans"] == 1
    assert (tmp_path / "out/head_00001/scan.json").is_file()
    assert not (tmp_path / "out/head_00000/scan.json").exists()  # written by the first run


def test_a_scan_without_noise_has_no_noisy_errors(copy, tmp_path):
    def expected(file):
        file["counts"][...] = file["primary"][()] + file["scatter"][()]

    change(copy, expected)
    numbers, by_scan = run(copy, tmp_path / "out", "scatter=none")
    assert numbers["vmi60_rmse_HU_uncorrected"] > 0
    assert not any("noisy" in name for name in numbers)
    assert set(by_scan["mine"]["errors"]) == {"uncorrected"}


def test_max_dead_share_admits_more_dead_pixels(copy, tmp_path):
    change(copy, FAULTS["many dead"][0])
    numbers, _ = run(copy, tmp_path / "out", "scatter=none", "max_dead_share=0.2")
    assert numbers["dead_pixels"] == 12


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["scans=null", "scatter=none"], "scans=FILE.h5"),
        (["scans=nowhere.h5", "scatter=none"], r"nowhere\.h5"),
        ([], "scatter=network"),
        (using("nowhere.ckpt"), r"nowhere\.ckpt"),
        (["scatter=network"], r"scatter\.checkpoint=RUN/checkpoints/best\.ckpt"),
        (["scatter=uniform"], r"scatter\.checkpoint=RUN/checkpoints/best\.ckpt"),
        (["scatter=none", "vmi_keV=[]"], r"vmi_keV=\[60\]"),
        (["scatter=none", "materials=[water,H2O]"], "water and H2O"),
        (["scatter=none", "materials=[]"], r"materials .*\[\]"),
        (["scatter=none", "materials=[water,watr]"], "'watr'"),
        (
            ["scatter=none", "materials=[water,calcium,iodine,gadolinium,tin]"],
            "4 bins.* water, calcium, iodine",
        ),
        (["scatter=none", "vmi_keV=60"], r"vmi_keV .*list\[float\]"),
        (["scatter=none", "filter=none"], "filter .*ramp"),
        (["scatter=none", "grid.voxel_cm=0.0"], "voxel_cm .* 0"),
        (["scatter=none", "grid.n_z=0"], "n_z .* 0"),
        (["scatter=none", "grid.n_z=1.5"], r"grid\.n_z .*int"),
        (["scatter=none", "grid.n_v=1"], r"grid\.n_v"),
        (["scatter=none", "max_dead_share=1.5"], "max_dead_share .* 1.5"),
        (["scatter=none", "folder=/proc/none"], "/proc/none .*folder=FOLDER"),
    ],
)
def test_invalid_settings_are_rejected(scans, tmp_path, overrides, words):
    with pytest.raises((ValueError, TypeError, OSError, InstantiationException), match=words):
        run(scans, tmp_path / "out", *overrides)


def test_a_folder_without_scans_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\.h5 files"):
        run(tmp_path, tmp_path / "out", "scatter=none")


def test_checkpoints_of_another_detector_are_rejected(scans, tmp_path):
    for edges, words in (
        ([15.0, 40.0, 120.0], "2 energy bins.* 4"),
        ([15.0, 30.0, 60.0, 80.0, 120.0], "detector"),
    ):
        path = checkpoint_of(tmp_path / "other.ckpt", model=scanner(edges_keV=edges))
        with pytest.raises(ValueError, match=words):
            run(scans, tmp_path / "out", *using(path))
    assert not list((tmp_path / "out").glob("*"))


def test_a_failed_run_leaves_no_results_and_moves_the_earlier_ones_aside(
    scans, checkpoint, tmp_path, monkeypatch, caplog
):
    run(scans, tmp_path, *using(checkpoint))
    before = files_of(tmp_path)
    monkeypatch.setattr(scan_folder, "write_nifti", partial(_fails, scan_folder.write_nifti))
    with pytest.raises(OSError, match="disk full"):
        run(scans, tmp_path, "scatter=none")
    assert [path.name for path in tmp_path.iterdir()] == ["earlier_1"]
    assert files_of(tmp_path / "earlier_1") == before
    assert str(tmp_path / "earlier_1") in caplog.text


def files_of(folder):
    """{path: bytes} of all files below a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _fails(write, path, *arguments):
    if path.name.startswith("vmi"):
        raise OSError("disk full")
    write(path, *arguments)


def test_an_error_of_the_command_is_one_line(tmp_path):
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(b"garbage")
    (tmp_path / "no.h5").write_bytes(b"neither")
    command = [sys.executable, str(REPOSITORY / "evaluate.py"), f"scans={tmp_path}/no.h5"]
    done = subprocess.run(
        [*command, "scatter=none"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("pcctlearn: ")
    assert "no.h5: " in last
    assert "docs/scan_file.md" in last


# -- outputs of several runs in one folder are neither mixed nor overwritten


def test_a_run_with_other_settings_moves_all_earlier_outputs_aside(scans, tmp_path):
    run(scans, tmp_path, "scatter=none", "vmi_keV=[50.0,70.0]")
    before = files_of(tmp_path)
    run(scans / "head_00001.h5", tmp_path, "scatter=none", "vmi_keV=[60.0]")
    new = {name for name in files_of(tmp_path) if not name.startswith("earlier_1/")}
    run(scans / "head_00001.h5", tmp_path / "fresh", "scatter=none", "vmi_keV=[60.0]")
    assert new == files_of(tmp_path / "fresh").keys()
    assert files_of(tmp_path / "earlier_1") == before


def test_an_interrupted_evaluation_is_repeated(scans, tmp_path, monkeypatch):
    """Its outputs equal those of an uninterrupted evaluation bit by bit."""
    run(scans, tmp_path / "whole", "scatter=none")
    write, out = evaluation.write_scan_folder, tmp_path / "out"

    def stop_at_second(scan, folder, *rest):
        if folder.name == "head_00001":
            raise KeyboardInterrupt
        write(scan, folder, *rest)

    monkeypatch.setattr(evaluation, "write_scan_folder", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        run(scans, out, "scatter=none")
    assert [path.name for path in out.iterdir()] == ["head_00000"]
    (out / ".head_00001.elsewhere.1.1.part").mkdir()
    monkeypatch.undo()
    run(scans, out, "scatter=none")
    whole, again = (files_of(folder) for folder in (tmp_path / "whole", out))
    assert again.keys() == whole.keys()
    for name in whole:
        if name.endswith((".nii.gz", ".h5", ".png", "results.json")) and name != "arrays.h5":
            assert again[name] == whole[name], name


def test_outputs_of_an_interrupted_run_with_other_settings_are_kept(scans, tmp_path):
    run(scans, tmp_path, "scatter=none")
    (tmp_path / "results.json").unlink()
    run(scans / "head_00001.h5", tmp_path, "scatter=none")
    assert (tmp_path / "earlier_1/head_00000/scan.json").is_file()
    assert not (tmp_path / "head_00000").exists()


def test_a_users_folder_with_the_name_of_a_scan_is_not_overwritten(scans, tmp_path):
    (tmp_path / "head_00000").mkdir()
    (tmp_path / "head_00000/notes.txt").write_text("mine")
    with pytest.raises(OSError, match=r"head_00000 exists .*folder=FOLDER"):
        run(scans, tmp_path, "scatter=none")
    assert list(files_of(tmp_path)) == ["head_00000/notes.txt"]
    run(scans, tmp_path / "another", "scatter=none")  # the remedy in the message


@pytest.mark.parametrize("name", ["...h5", ".scan.h5", "figures.h5", "results.json.h5", "x" * 201])
def test_a_scan_whose_name_is_unfit_for_outputs_is_rejected_at_the_start(copy, tmp_path, name):
    bad = copy.rename(copy.with_name(name))
    out = tmp_path / "outer" / "out"
    with pytest.raises(ValueError, match="rename it"):
        run(bad, out, "scatter=none")
    assert not out.parent.exists()
    good = bad.rename(bad.with_name("scan_1.h5"))  # the remedy in the message
    run(good, out, "scatter=none")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_scans_of_equal_names_in_a_sweep(scans, tmp_path):
    """Each job has its own folder, so that neither overwrites the other."""
    for name, source in (("a", "head_00000"), ("b", "head_00001")):
        (tmp_path / name).mkdir()
        shutil.copy(scans / f"{source}.h5", tmp_path / name / "scan.h5")
    words = [f"scans={tmp_path}/a/scan.h5,{tmp_path}/b/scan.h5", "scatter=none", "folder=out"]
    command = [sys.executable, str(REPOSITORY / "evaluate.py"), "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    records = [json.loads((tmp_path / f"out/{n}/scan/scan.json").read_text()) for n in (0, 1)]
    assert [Path(record["scan"]).parent.name for record in records] == ["a", "b"]
    assert not list(tmp_path.rglob("earlier_*"))


def test_an_unknown_truncation_is_rejected_before_anything_is_written(scans, tmp_path):
    with pytest.raises(ValueError, match=r"truncation .* water, cosine.* 'air'"):
        run(scans, tmp_path / "out", "scatter=none", "truncation=air")
    assert not (tmp_path / "out").exists()


def test_each_file_is_read_and_validated_once(scans, checkpoint, tmp_path, monkeypatch):
    read = []

    def counted(module, name):
        original = getattr(module, name)

        def call(first, *rest):
            path = first if isinstance(first, Path) else Path(first.file.filename)
            read.append((name, path.name))
            return original(first, *rest)

        monkeypatch.setattr(module, name, call)

    counted(scan_evaluator, "read_scan")
    counted(scan_file, "findings_in")
    counted(count_checks, "count_findings")
    counted(checkpoint_module, "read_content")
    run(scans, tmp_path, *using(checkpoint))
    files = ["head_00000.h5", "head_00001.h5"]
    for name in ("read_scan", "findings_in", "count_findings"):
        assert [file for what, file in read if what == name] == files
    assert [file for what, file in read if what == "read_content"] == ["best.ckpt"]


def test_filter_and_grid_can_be_chosen(scans, tmp_path):
    words = ["scatter=none", "filter=hann", "grid.voxel_cm=2.0"]
    run(scans / "head_00000.h5", tmp_path, *words)
    smooth = stored_volume(tmp_path / "head_00000/water.nii.gz")
    assert smooth.shape == (12, 13, 13)  # 24 × 25.2 × 26.4 cm
    run(scans / "head_00000.h5", tmp_path / "ramp", "scatter=none", "grid.voxel_cm=2.0")
    sharp = stored_volume(tmp_path / "ramp/head_00000/water.nii.gz")
    assert np.nanstd(np.diff(smooth, axis=2)) < 0.9 * np.nanstd(np.diff(sharp, axis=2))
    words = ["scatter=none", "grid.voxel_cm=2.0", "grid.n_z=2", "grid.center_cm=[2.5,0.0,0.2]"]
    run(scans / "head_00000.h5", tmp_path / "part", *words)
    part = stored_volume(tmp_path / "part/head_00000/water.nii.gz")
    np.testing.assert_allclose(part, sharp[6:8], rtol=1e-4, atol=0.05)  # z from 0.5 to 4.5 cm


def test_the_tables_have_a_row_for_each_error(scans, checkpoint, tmp_path, capsys):
    numbers, _ = run(scans, tmp_path, *using(checkpoint))
    printed = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    for label in ("SPR (%)", "projection water (cm)", "VMI 60 keV (HU)", "scatter and noise"):
        assert label in page
    assert "share left" in page
    assert "vmi60_rmse_HU_over_uncorrected" in numbers
    for name in ("vmi60_rmse_HU_over_uncorrected", "noisy_"):
        assert name not in printed
        assert name not in page


def test_photons_counted_twice_raise_the_noise_of_the_images(copy, checkpoint, tmp_path):
    """Also where scatter is corrected; the estimates themselves stay the same."""
    words = using(checkpoint)
    poisson, _ = run(copy, tmp_path / "poisson", *words)
    found, _ = run(copy, tmp_path / "pairs", *words, "pairs=silicon_monte_carlo")
    assert 1.005 < found["noise_vmi60_HU"] / poisson["noise_vmi60_HU"] < 1.1
    assert found["vmi60_error_HU.rms"] == poisson["vmi60_error_HU.rms"]
    with pytest.raises(ValueError, match="no pairs of events"):
        run(copy, tmp_path / "none", *words, "pairs=silicon")
