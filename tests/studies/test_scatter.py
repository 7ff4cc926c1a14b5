"""The scatter study runs from scans to figures, with losses on several stages."""

from functools import partial

import h5py
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from support.scanners import scanner
from support.studies import in_context

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.evaluation.judge import judge
from pcctlearn.figures import file_stem
from pcctlearn.losses.likelihood import ScanDevianceLoss
from pcctlearn.losses.stage import StageLoss, TotalLoss
from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.patients.procedural import ProceduralCases
from pcctlearn.runs.results import redraw, write_results
from pcctlearn.scans.data_set import usable_scans
from pcctlearn.scans.file import write_scan
from pcctlearn.scans.reference import Measured, NoReference, SecondScan
from pcctlearn.scans.source import ScanSource
from pcctlearn.scatter.checkpoint import CorrectionBuilder, SavedCorrection
from pcctlearn.scatter.network import ScatterNetwork
from pcctlearn.scatter.pencil_beams import pencil_beam_kernels
from pcctlearn.scatter.uniform import UniformScatter
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.studies.scatter import ScatterStudy
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.training.chain_module import ChainModule

GEOMETRY = ConeBeam(12, 8, 12, 3.84, 62.5, 109.7, arc_rad=4.18879)
VOLUME = VolumeGrid(24, 28, 24, 1.0)


def simulator():
    scatter = ObjectScatter(0.3, chunk_histories=50, pixel_cm=3.84)
    return ScanSimulator(GEOMETRY, VOLUME, scanner(photons=1e6), scatter, spr=0.1)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder, cases = tmp_path_factory.mktemp("scans"), ProceduralCases("head", 4)
    torch.set_default_dtype(torch.float32)
    made = simulator()
    for index, name in enumerate(cases.names):
        scan = made.scan(cases.maps(index, VOLUME), name, index)
        write_scan(folder / f"{name}.h5", scan)
    return sorted(folder.iterdir())


class Finished(ScanSource):
    geometry, grid, model = GEOMETRY, VOLUME, None

    def __init__(self, paths):
        self.paths, self.model = paths, simulator().model


_SECOND = SecondScan()
small_network = partial(ScatterNetwork, channels=(8, 8), grid=(2, 3), initial_scatter=0.01)


def study(scans, stage="maps", split=(2, 1, 1), correction=small_network, scatter=None,
          reference=_SECOND, loss=None):  # fmt: skip
    return ScatterStudy(
        Finished(scans),
        MaximumLikelihood,
        scatter or CorrectionBuilder(correction),
        reference,
        loss or TotalLoss({stage: StageLoss(stage, torch.nn.L1Loss())}),
        partial(ChainModule, optimizer=partial(torch.optim.Adam, lr=0.01)),
        split,
    )


@pytest.mark.parametrize("stage", ["scatter_fraction", "maps"])
def test_a_network_is_trained_and_figures_are_drawn(scans, stage, tmp_path):
    torch.set_default_dtype(torch.float32)
    results = study(scans, stage).run(in_context(max_epochs=30))
    write_results(results, tmp_path)
    drawn = redraw(tmp_path)
    assert set(map(file_stem, drawn)) == {path.stem for path in (tmp_path / "figures").iterdir()}
    assert results.numbers["spr_percent_uncorrected"] == pytest.approx(10, rel=0.02)
    numbers = results.numbers
    assert numbers["val_loss_over_untrained"] < 0.5
    assert numbers["spr_percent_over_uncorrected"] < 0.7
    assert numbers["spr_percent_untrained_over_uncorrected"] > 1
    assert "VMI 60 keV (HU): " in results.summary
    assert "in 30 epochs" in results.summary


def test_a_network_without_training_equals_the_untrained_baseline(scans):
    """Its error is that of the untrained correction, and higher than that of uniform scatter."""
    torch.set_default_dtype(torch.float32)
    results = study(scans).run(in_context(max_epochs=0))
    numbers = results.numbers
    vmi = "vmi60_rmse_HU"
    assert numbers[f"{vmi}_over_uncorrected"] == numbers[f"{vmi}_untrained_over_uncorrected"]
    assert "in 0 epochs" in results.summary
    untrained, uniform = results.summary.split(" Uniform scatter")
    assert "untrained correction" in untrained
    assert untrained.endswith("the error is equal.")
    assert numbers[f"{vmi}_uniform_over_uncorrected"] < numbers[f"{vmi}_over_uncorrected"]
    assert "higher in 1 of 1 scans, too few" in uniform


@pytest.mark.parametrize("stage", ["scatter_fraction", "vmi"])
def test_the_saved_checkpoint_has_the_reported_errors(scans, stage, tmp_path):
    torch.set_default_dtype(torch.float32)
    made = study(scans, stage)
    checkpoint = ModelCheckpoint(
        dirpath=tmp_path, filename="best", monitor="val/loss", save_weights_only=True
    )
    results = made.run(in_context(max_epochs=1, enable_checkpointing=True, callbacks=[checkpoint]))
    made.chain.correct = SavedCorrection(tmp_path / "best.ckpt")(GEOMETRY, made.model)
    test = usable_scans(made.scans["test"], made.air)
    again = judge(made.chain, test).errors.summary()
    assert len(again) > 20
    for name, value in again.items():
        assert results.numbers[name] == pytest.approx(value, rel=1e-6), name


def test_kernels_are_fitted_and_read_back(scans, tmp_path):
    torch.set_default_dtype(torch.float32)
    few = partial(
        pencil_beam_kernels, thicknesses_cm=(4.0, 8.0, 12.0, 16.0), borders_cm=(), n_histories=4000
    )
    made = study(scans, correction=few)
    checkpoint = ModelCheckpoint(dirpath=tmp_path)
    results = made.run(in_context(enable_checkpointing=True, callbacks=[checkpoint]))
    assert results.numbers["spr_percent_over_uncorrected"] < 0.9
    assert 0 < results.numbers["grid_transmission_bin_4"] < 1  # anti-scatter grid of the scans
    assert "kernels fitted to 2 scans" in results.summary
    again = SavedCorrection(tmp_path / "best.ckpt")
    counts = 1e4 * torch.rand(1, 4, 2, 8, 12)
    correction = again(GEOMETRY, made.model)
    torch.testing.assert_close(correction(counts), made.chain.correct(counts))
    assert again.differences(GEOMETRY) == []


def test_uniform_scatter_can_be_studied(scans, tmp_path):
    torch.set_default_dtype(torch.float32)
    made = study(scans, correction=UniformScatter)
    checkpoint = ModelCheckpoint(dirpath=tmp_path)
    numbers = made.run(in_context(enable_checkpointing=True, callbacks=[checkpoint])).numbers
    ratio = numbers["vmi60_rmse_HU_over_uncorrected"]
    assert ratio == numbers["vmi60_rmse_HU_uniform_over_uncorrected"] < 1
    assert (tmp_path / "best.ckpt").is_file()


def test_a_study_without_a_correction_is_rejected(scans):
    with pytest.raises(ValueError, match="scatter=none"):
        study(scans, scatter=CorrectionBuilder(None))


def test_voxels_visible_in_all_views():
    visible = GEOMETRY.visible_in_all_views(VOLUME)
    assert visible.shape == VOLUME.shape
    assert visible[12, 14, 12]
    assert not visible[0].any()  # 12 cm below the orbit; the panel covers 8.7 cm
    assert not visible[:, 0, 0].any()


@pytest.mark.parametrize("split", [(2, 1, 2), (2, 0, 1), (2, 1)])
def test_a_split_that_does_not_fit_is_rejected(scans, split):
    with pytest.raises(ValueError, match=r"study\.split .* 4 "):
        study(scans, split=split)


def test_scans_of_a_laboratory_are_trained_on_but_not_judged(scans, tmp_path):
    """They have a second scan in place of primary counts, and no scatter."""
    torch.set_default_dtype(torch.float32)
    paths = [tmp_path / path.name for path in scans]
    for old, new in zip(scans, paths, strict=True):
        new.write_bytes(old.read_bytes())
        with h5py.File(new, "r+") as file:
            del file["scatter"], file["scatter_standard_error"]
    with pytest.raises(ValueError, match=r"holds no scatter: use study.split=\[…,…,0\]"):
        study(paths, reference=Measured()).run(in_context(max_epochs=1))
    results = study(paths, reference=Measured(), split=(2, 1, 0)).run(in_context(max_epochs=1))
    assert results.numbers["val_loss_over_untrained"] < 1
    assert "No scans were judged" in results.summary
    write_results(results, tmp_path / "out")
    redraw(tmp_path / "out")


ALONE = TotalLoss({"deviance": ScanDevianceLoss()})


def test_a_network_learns_from_scans_alone(scans):
    torch.set_default_dtype(torch.float32)
    results = study(scans, reference=NoReference(), loss=ALONE).run(in_context(max_epochs=60))
    assert results.numbers["val_loss_over_untrained"] < 1
    assert "No reference was compared with" in results.summary
    assert not any("uniform" in name for name in results.numbers)


@pytest.mark.parametrize(
    "choice", [{"loss": None}, {"loss": ALONE, "correction": UniformScatter}], ids=["loss", "fit"]
)
def test_without_a_reference_nothing_can_be_compared_with_it(scans, choice):
    with pytest.raises(ValueError, match=r"losses=self_supervised with scatter=network"):
        study(scans, reference=NoReference(), **choice)
