"""Checkpoints of corrections: round trip, other scanners, and damaged or malicious files."""

import pickle
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from support.kernels import VALUES, kernels
from support.scanners import scanner

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.scatter.checkpoint import (
    KEY,
    PREFIX,
    CorrectionBuilder,
    SavedCorrection,
    described,
    save_correction,
)
from pcctlearn.scatter.kernel import KernelScatter
from pcctlearn.scatter.kernel_parameters import KERNEL
from pcctlearn.scatter.network import ScatterNetwork
from pcctlearn.scatter.uniform import UniformScatter
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

TWO_BINS = [20.0, 60.0, 120.0]
VOLUME = VolumeGrid(4, 6, 6, 1.0)
GEOMETRY = ConeBeam(4, 8, 12, (1.5, 2.0), 60.0, 110.0, arc_rad=4.0, offset_cm=0.5)
NO_CHECKPOINT = r"not a checkpoint of a scatter correction \(.+\): give the checkpoints/best\.ckpt"


def model(edges_keV=TWO_BINS, photons=1e6):
    return scanner(edges_keV=edges_keV, photons=photons)


def a_network(model):
    torch.manual_seed(1)
    made = ScatterNetwork(GEOMETRY, model, (6, 6), (2, 3), initial_scatter=0.02)
    torch.nn.init.normal_(made.head.weight, std=0.3)
    made(counts(model, 3))  # updates the running statistics
    return made.eval()


def some_kernels(model):
    return KernelScatter(GEOMETRY, model, kernels(), [1.5, 0.7], gamma_per_cm=0.03)


def uniform(model):
    made = UniformScatter(GEOMETRY, model)
    made.scatter_over_air.copy_(torch.tensor([0.01, 0.02]))
    return made


def read(path, geometry, model):
    return SavedCorrection(path)(geometry, model)


def counts(model, n_views=2):
    generator = torch.Generator().manual_seed(2)
    shape = (1, len(model.air()), n_views, 8, 12)
    transmission = 0.05 + 0.9 * torch.rand(shape, generator=generator)
    return transmission * model.air().detach()[:, None, None, None]


@pytest.fixture(params=[a_network, some_kernels, uniform], ids=["network", "kernel", "uniform"])
def saved(request, tmp_path):
    """A checkpoint and its correction."""
    correction = request.param(model())
    path = tmp_path / "best.ckpt"
    save_correction(path, correction, GEOMETRY, model())
    return path, correction


@pytest.fixture
def network_file(tmp_path):
    path = tmp_path / "net.ckpt"
    save_correction(path, a_network(model()), GEOMETRY, model())
    return path


@torch.no_grad()
def test_round_trip(saved):
    path, correction = saved
    back = read(path, GEOMETRY, model())
    assert not back.training
    torch.testing.assert_close(back(counts(model())), correction(counts(model())), rtol=0, atol=0)
    settings = described(back, GEOMETRY, model())
    assert settings == described(correction, GEOMETRY, model())


@torch.no_grad()
def test_another_exposure_gives_the_same_fraction(saved):
    path, correction = saved
    brighter = model(photons=7e6)
    back = read(path, GEOMETRY, brighter)
    assert not torch.equal(back.air, correction.air)
    torch.testing.assert_close(
        back(counts(brighter)), correction(counts(model())), rtol=1e-4, atol=1e-6
    )


@torch.no_grad()
def test_a_model_with_thresholds_per_pixel(saved):
    """If all pixels have the same thresholds, the fraction is that of shared thresholds."""
    path, correction = saved
    one = model()
    edges = one.thresholds.edges_keV.detach().expand(8, 12, -1)
    each = SpectralModel(
        one.energies_keV, one.fluence, one.response, Thresholds(edges), one.attenuation
    )
    back = read(path, GEOMETRY, each)
    torch.testing.assert_close(back(counts(one)), correction(counts(one)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"source_to_axis_cm": 65.0}, ["source_to_axis_cm 60 in the checkpoint, 65 in the scan"]),
        ({"pixel_cm": (1.5, 2.5)}, ["column_cm 2 in the checkpoint, 2.5 in the scan"]),
        ({"n_rows": 10}, ["rows 8 in the checkpoint, 10 in the scan"]),
        ({"offset_cm": 0.0}, ["offset_cm 0.5 in the checkpoint, 0 in the scan"]),
        ({"row_offset_cm": 0.3}, ["row_offset_cm 0 in the checkpoint, 0.3 in the scan"]),
        (
            {"axis_offset_cm": 0.4, "source_to_detector_cm": 120.0},
            [
                "source_to_detector_cm 110 in the checkpoint, 120 in the scan",
                "axis_offset_cm 0 in the checkpoint, 0.4 in the scan",
            ],
        ),
        ({"n_views": 9, "arc_rad": 6.0}, []),  # views are corrected independently
        ({"source_to_axis_cm": 60.3}, []),
    ],
)
def test_differences_of_the_geometry_are_named(saved, changes, named):
    saved = SavedCorrection(saved[0])
    other = replace(GEOMETRY, **changes)
    assert saved.differences(other) == named
    assert saved(other, model()) is not None


def test_other_thresholds_raise_an_error(saved):
    with pytest.raises(ValueError, match=r"thresholds: .* keV"):
        read(saved[0], GEOMETRY, model([20.0, 75.0, 120.0]))


def test_nearly_equal_thresholds_are_accepted(saved):
    assert read(saved[0], GEOMETRY, model([20.0, 60.5, 120.0])) is not None


def test_another_number_of_bins_raises_an_error(saved):
    with pytest.raises(ValueError, match=r"2 energy bins.* 3"):
        read(saved[0], GEOMETRY, model([20.0, 60.0, 90.0, 120.0]))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*none\.ckpt"):
        read(tmp_path / "none.ckpt", GEOMETRY, model())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage " * 100,
        b"\x80\x02garbage",
        b"PK\x03\x04" + b"half a zip" * 9,
        bytes(range(256)) * 9,
        b"\x89HDF\r\n\x1a\n" + bytes(99),
    ],
)
def test_other_bytes_raise_an_error(tmp_path, data):
    path = tmp_path / "bad.ckpt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=NO_CHECKPOINT):
        read(path, GEOMETRY, model())


def test_a_truncated_checkpoint_raises_an_error(network_file):
    network_file.write_bytes(network_file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=NO_CHECKPOINT):
        read(network_file, GEOMETRY, model())


class Malicious:
    """An object that creates a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize(
    "write", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))]
)
def test_code_in_a_checkpoint_is_not_run(tmp_path, write):
    path, target = tmp_path / "bad.ckpt", tmp_path / "was here"
    write({KEY: Malicious(target), "state_dict": {}}, path)
    with pytest.raises(ValueError, match=NO_CHECKPOINT):
        read(path, GEOMETRY, model())
    assert not target.exists()
    pickle.loads(pickle.dumps(Malicious(target)))
    assert target.exists()  # unpickling would have created it


def _without(name):
    def change(content):
        del content["state_dict"][name]

    return change


def _with_tensor(name, value):
    return lambda content: content["state_dict"].update({PREFIX + name: value})


def _with(key, value):
    return lambda content: content.update({key: value})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.pop(KEY),
        lambda content: content.pop("state_dict"),
        lambda content: content[KEY].pop("bins_keV"),
        lambda content: content[KEY].pop("geometry"),
        lambda content: content[KEY].pop("spec"),
        lambda content: content[KEY]["spec"].pop("_target_"),
        lambda content: content[KEY]["spec"].update(depth=3),
        lambda content: content[KEY]["spec"].update(channels=[5, 5]),
        _without("chain.correct.head.bias"),
        _with("state_dict", [1, 2]),
        _with(KEY, "words"),
    ],
)
def test_other_contents_raise_an_error(network_file, spoil):
    content = torch.load(network_file, weights_only=True)
    spoil(content)
    torch.save(content, network_file)
    with pytest.raises(ValueError, match=NO_CHECKPOINT):
        read(network_file, GEOMETRY, model())


def _weight(name, value):
    """Set the first number of a weight."""

    def change(content):
        content["state_dict"][PREFIX + name].view(-1)[0] = value

    return change


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda c: c[KEY].update(bins_keV=[float("nan"), 70.0]), "bins_keV is nan"),
        (lambda c: c[KEY].update(bins_keV=[40.0, float("inf")]), "bins_keV is inf"),
        (lambda c: c[KEY].update(bins_keV=[40.0, "70"]), "bins_keV is 70"),
        (lambda c: c[KEY].update(bins_keV=[]), "bins_keV"),
        (lambda c: c[KEY]["geometry"].update(column_cm=float("nan")), "geometry column_cm is nan"),
        (lambda c: c[KEY]["geometry"].update(rows=None), "geometry rows is None"),
        (lambda c: c[KEY]["geometry"].pop("offset_cm"), "geometry offset_cm is None"),
        (lambda c: c[KEY]["spec"].update(channels=[10**9, 6]), "channels of"),
        (lambda c: c[KEY]["spec"].update(channels=[4096, 4096]), "more than 6.71e+07"),
        (lambda c: c[KEY]["spec"].update(channels=[6] * 65), "channels "),
        (lambda c: c[KEY]["spec"].update(channels=10**9), "channels "),
        (lambda c: c[KEY]["spec"].update(channels=[6.0, 6.0]), "channels "),
        (lambda c: c[KEY]["spec"].update(grid=[0, 3]), "grid "),
        (lambda c: c[KEY]["spec"].update(grid=[-2, 3]), "grid "),
        (lambda c: c[KEY]["spec"].update(panel=[10**12, 96]), "panel "),
        (lambda c: c[KEY]["spec"].update(predicts="magic"), "predicts"),
        (lambda c: c[KEY]["spec"].update(predicts=2.0**60), "setting predicts"),
        (lambda c: c[KEY]["spec"].update(_target_="os.system"), "'os.system'"),
        (lambda c: c[KEY]["spec"].update(_target_="torch.nn.Linear"), "'torch.nn.Linear'"),
        (
            lambda c: c[KEY]["spec"].update(_target_="pcctlearn.chain.Chain"),
            "pcctlearn.chain.Chain",
        ),
        (lambda c: c[KEY].update(kind="network"), "earlier version"),
        (lambda c: c[KEY]["spec"].update(n_layers=10**9), "n_layers"),
        (_weight("head.weight", float("nan")), "head.weight contains NaN"),
        (_weight("head.bias", float("inf")), "head.bias contains NaN, infinity"),
        (_weight("shrink.1.running_var", -5.0), "scatter fraction"),
        (_weight("head.bias", 3e38), "scatter fraction"),
        (_with_tensor("head.weight", torch.zeros(1).expand(2, 6, 1, 1)), "stores less"),
        (_with_tensor("head.weight", torch.zeros(1).expand(10**6, 10**6)), "stores less"),
        (_with_tensor("head.weight", torch.zeros(2, 6, 1, 1, dtype=torch.complex64)), "complex"),
        (_with_tensor("head.weight", torch.zeros(2, 7, 1, 1)), "head.weight"),
        (_with_tensor("head.weight", torch.eye(3).to_sparse()), "head.weight"),
        (_with_tensor("head.weight", [1.0]), "head.weight"),
    ],
)
@pytest.mark.usefixtures("annotations_off")
def test_impossible_settings_and_weights_are_named(network_file, spoil, reason):
    content = torch.load(network_file, weights_only=True)
    spoil(content)
    torch.save(content, network_file)
    with pytest.raises(ValueError, match=NO_CHECKPOINT) as raised:
        read(network_file, GEOMETRY, model())
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": [[10**400]]},
        {"alpha": [["x"]]},
        {"alpha": [[float("nan")]]},
        {"alpha": [[1.0], [1.0, 2.0]]},
        {"borders_cm": [float("nan")]},
        {"borders_cm": 3.0},
        {"water_per_cm": [1.0, 2.0]},
        {"water_per_cm": "x"},
        {"passport": 3},
        {"quantity": 3},
        kernels(  # one bin, for a scanner with two
            **{name: torch.tensor(VALUES[name][:1]) for name in KERNEL},
            water_weights=torch.tensor([[1.0, 0.0]]),
        ).plain(),
    ],
)
def test_impossible_kernels_raise_an_error(tmp_path, change):
    path = tmp_path / "kernel.ckpt"
    save_correction(path, some_kernels(model()), GEOMETRY, model())
    content = torch.load(path, weights_only=True)
    content[KEY]["spec"]["parameters"].update(change)
    torch.save(content, path)
    with pytest.raises(ValueError, match=NO_CHECKPOINT):
        read(path, GEOMETRY, model())


def test_the_remedy_of_the_error_works(network_file):
    """The remedy is the best.ckpt of a study, a file of save_correction."""
    assert read(network_file, GEOMETRY, model()) is not None


@pytest.mark.parametrize("step", [97, 1009])
def test_a_flipped_byte_is_read_or_raises_value_error(network_file, step):
    """A flipped byte causes no other error and no weights that are not finite."""
    sound, refusals = network_file.read_bytes(), []
    for place in range(step // 2, len(sound), max(step, len(sound) // 60)):
        network_file.write_bytes(sound[:place] + bytes([sound[place] ^ 0xFF]) + sound[place + 1 :])
        try:
            back = read(network_file, GEOMETRY, model())
        except ValueError as error:
            refusals.append(str(error))
            continue
        assert back(counts(model())).isfinite().all()
    assert all(str(network_file) in refusal for refusal in refusals)


@pytest.mark.parametrize("content", [[1, 2], "words", {"weights": torch.ones(2)}])
def test_other_files_of_torch_save_raise_an_error(tmp_path, content):
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=NO_CHECKPOINT):
        read(path, GEOMETRY, model())


def test_a_builder_builds_a_new_correction_or_reads_its_checkpoint(saved):
    new = CorrectionBuilder(partial(UniformScatter), None)(GEOMETRY, model())
    assert not new(counts(model())).any()
    builder = CorrectionBuilder(partial(UniformScatter), str(saved[0]))
    saved[0].unlink()  # the builder has read it
    built = builder.ready(GEOMETRY, model())
    torch.testing.assert_close(built(counts(model())), saved[1](counts(model())))
    assert builder.differences(replace(GEOMETRY, offset_cm=0.0)) == [
        "offset_cm 0.5 in the checkpoint, 0 in the scan"
    ]


def test_a_correction_without_a_fit_is_not_ready():
    untrained = CorrectionBuilder(partial(ScatterNetwork, channels=(4,), grid=(2, 2)))
    with pytest.raises(FileNotFoundError, match=r"scatter\.checkpoint=RUN"):
        untrained.ready(GEOMETRY, model())
    assert CorrectionBuilder(lambda geometry, model: some_kernels(model)).ready(GEOMETRY, model())


def test_scatter_none_accepts_no_checkpoint(saved):
    assert CorrectionBuilder(None).ready(GEOMETRY, model()) is None
    with pytest.raises(ValueError, match="scatter=none"):
        CorrectionBuilder(None, str(saved[0]))


def test_the_error_is_one_line(tmp_path):
    path = tmp_path / "bad.ckpt"
    path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
        read(path, GEOMETRY, model())
    assert "\n" not in str(raised.value)
