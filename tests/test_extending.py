"""A new part is one class and one YAML file; no other file changes."""

import json
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support.configs import FEW_SLABS, composed
from support.scan_files import recorded

from pcctlearn.app.run import run
from pcctlearn.scans.file import read_scan, write_scan

FEW_PIXELS = [
    f"tomography.{word}"
    for word in ("geometry.n_views=2", "geometry.n_rows=8", "geometry.n_columns=12",
                 "geometry.pixel_cm=3.84", "grid.n_z=24", "grid.n_y=28", "grid.n_x=24",
                 "grid.voxel_cm=1.0")
]  # fmt: skip

LOSS = '''
import torch
from pcctlearn.losses.stage import Loss


class LogCosh(Loss):
    """mean log cosh r of the residuals r: square where they are small."""

    stage = "line_integrals"

    def forward(self, predicted, target):
        return self.residual(predicted, target).cosh().log().mean()

    def curvature(self, at):
        r = self.residual(at.predicted, at.target)
        return at.of_stage(self.stage, 1 / r.cosh() ** 2 / r.numel())

    def residual(self, predicted, target):
        return predicted.at(self.stage) - target.at(self.stage)
'''
LOSS_YAML = """
_target_: pcctlearn.losses.stage.TotalLoss
terms:
  line_integrals: {_target_: toy.LogCosh}
"""
SOLVER = '''
import torch
from pcctlearn.solvers.quadratic import Solution


class Scoring:
    """x ← x − F⁻¹ g with the expected Hessian F, a fixed number of times."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, objective, start, theta=(), bounds=None):
        x = start
        for _ in range(self.steps):
            quadratic = objective(x, *theta, exact=False)
            step = torch.linalg.solve(quadratic.hessian, quadratic.gradient)
            x = x - step
            x = x if bounds is None else x.clamp(*bounds)
        return Solution(x, step.abs().amax(-1) < 1e-6)
'''
SOLVER_YAML = """
_target_: toy.Scoring
steps: 30
"""
DECOMPOSITION = '''
import torch
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.shapes import channels_first, channels_last
from pcctlearn.solvers.quadratic import Solution


class Linear(Decomposition):
    """A = M⁺ log(air / n), with the mean attenuation M of each bin in the open beam."""

    def forward(self, counts):
        rays = channels_last(counts)
        spectra, attenuation = self.model.spectra().to(rays), self.model.attenuation.to(rays)
        air = spectra.sum(-1)
        mean = spectra @ attenuation.mT / air[..., None]
        x = (torch.linalg.pinv(mean) @ (air / rays).log()[..., None])[..., 0]
        return Solution(channels_first(x), (rays > 0).all(-1))
'''
DECOMPOSITION_YAML = """
_target_: toy.Linear
_partial_: true
"""


CASES = '''
import numpy as np
import torch
from pcctlearn.patients.ct_cases import Case, CtCases
from pcctlearn.patients.ct_volume import CtVolume


class NumpyCases(CtCases):
    """Volumes in HU as .npy files, with voxels of 1 cm."""

    expected_path = "a folder of .npy files"

    def sources(self, path):
        return [Case(file) for file in sorted(path.glob("*.npy"))]

    def read(self, case):
        hounsfield = torch.from_numpy(np.load(case.path))
        return CtVolume(hounsfield, (1.0, 1.0, 1.0), np.diag([-1, 1, 1, 1.0]))
'''
CASES_YAML = """
defaults: [_ct]
_target_: toy.NumpyCases
"""
SCATTER = '''
import torch
from pcctlearn.scatter.base import ScatterCorrection


class OneShare(ScatterCorrection):
    """One scattered fraction for each bin, the mean over the scans."""

    title = "One fraction for each bin"
    needs_scans = True

    def __init__(self, geometry, model, at_most):
        super().__init__(at_most=at_most)
        self.at_most = at_most
        self.register_buffer("share", torch.zeros(model.thresholds.n_bins))

    def fit(self, scans, fit_by_gradient):
        means = [scan.at("scatter_fraction").mean((0, 2, 3, 4)) for scan in scans]
        self.share.copy_(torch.stack(means).mean(0).clamp(max=self.at_most))
        return {"share_of_bin_1": self.share[0].item()}

    def forward(self, counts):
        return self.share.to(counts)[:, None, None, None].expand_as(counts)
'''
SCATTER_YAML = """
_target_: pcctlearn.scatter.checkpoint.CorrectionBuilder
checkpoint: null
correction:
  _target_: toy.OneShare
  _partial_: true
  at_most: 0.9
"""


@pytest.fixture(name="added")
def _added(tmp_path, monkeypatch):
    """Adds toy.py and GROUP/toy.yaml to a run of a command; returns its results."""

    def add(group, source, yaml, *overrides, name="train"):
        (tmp_path / "code").mkdir()
        (tmp_path / "code/toy.py").write_text(source)
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "toy.yaml").write_text(yaml)
        monkeypatch.syspath_prepend(tmp_path / "code")
        monkeypatch.delitem(sys.modules, "toy", raising=False)
        words = [f"{group}=toy", f"hydra.searchpath=[file://{tmp_path / 'conf'}]"]
        run(composed(tmp_path / "run", *overrides, *words, "allowed_targets=[toy]", name=name))
        return json.loads((tmp_path / "run/results.json").read_text())

    return add


def test_a_new_loss_is_minimised_by_gauss_newton(added):
    numbers = added("losses", LOSS, LOSS_YAML, *FEW_SLABS)
    assert numbers["threshold_error_after_max_keV"] < 1e-3
    assert numbers["fit_converged"]


def test_a_new_solver_calibrates_thresholds(added):
    alone = "+decomposition.warm_start=[]"
    numbers = added("solvers", SOLVER, SOLVER_YAML, *FEW_SLABS, alone)
    assert numbers["threshold_error_after_max_keV"] < 1e-3
    assert numbers["fit_converged"]


def test_a_new_decomposition_evaluates_a_scan(added, tmp_path):
    scan = recorded()
    write_scan(tmp_path / "scan.h5", scan)
    folder = tmp_path / "run"
    words = [f"scans={tmp_path / 'scan.h5'}", f"folder={folder}", "materials=[water,calcium]"]
    numbers = added(
        "decomposition",
        DECOMPOSITION,
        DECOMPOSITION_YAML,
        *words,
        "scatter=none",
        name="evaluate",
    )
    assert numbers["rays_not_converged_percent"] == 0
    model = scan.spectral_model(["water", "calcium"])
    with h5py.File(folder / "scan/projections.h5") as file:
        A = torch.from_numpy(file["line_integrals"][()]).double()
    mean = model.spectra() @ model.attenuation.mT / model.air()[:, None]
    counts = scan.of_equal_exposure().at("counts")
    decrease = (scan.air[:, None] / counts).log().double()
    torch.testing.assert_close(torch.einsum("bm,mvrc->bvrc", mean, A), decrease, atol=1e-3, rtol=0)


def test_a_layout_of_ct_volumes(added, tmp_path):
    """A cylinder of water, 12 cm wide, from a .npy file to a simulated scan."""
    y, x = np.indices((20, 20)) - 9.5
    slices = np.where(np.hypot(x, y) < 6, 0, -1000).astype("float32")
    (tmp_path / "cts").mkdir()
    np.save(tmp_path / "cts/cylinder.npy", np.tile(slices, (12, 1, 1)))
    folder = [f"datasets.path={tmp_path / 'cts'}", f"folder={tmp_path / 'run'}"]
    none = ["scan.scatter=null", "scan.grid_transmission=null"]
    added("datasets", CASES, CASES_YAML, *folder, *none, *FEW_PIXELS, name="simulate")
    scan = read_scan(tmp_path / "run/scans/cylinder.npy.h5", only=["maps"])
    water = scan.maps[0, :, 14, 12]
    assert water[8:16].numpy() == pytest.approx(1.0, abs=0.01)


def test_a_new_scatter_correction_is_fitted_and_evaluates_a_scan(added, tmp_path):
    scan = recorded()
    materials = ("water", "calcium")
    scan = replace(scan, materials=materials, line_integrals=None, maps=None)
    (tmp_path / "scans").mkdir()
    for name in "abc":
        write_scan(tmp_path / f"scans/{name}.h5", replace(scan, name=name))
    study = ["experiment=scatter_cross_domain", "datasets=scans", "study.split=[1,1,1]"]
    study.append("reference=shared")  # its fractions have no noise
    words = [f"datasets.folder={tmp_path / 'scans'}", "logger=none"]
    numbers = added("scatter", SCATTER, SCATTER_YAML, *study, *words)
    assert numbers["share_of_bin_1"] == pytest.approx(0.2)
    assert numbers["spr_percent_over_uncorrected"] < 0.01  # 20 % in every pixel
    checkpoint, out = tmp_path / "run/checkpoints/best.ckpt", tmp_path / "evaluated"
    again = ["scatter=toy", f"hydra.searchpath=[file://{tmp_path / 'conf'}]"]
    again += ["allowed_targets=[toy]", f"scatter.checkpoint={checkpoint}"]
    scans = [f"scans={tmp_path / 'scans'}", f"folder={out}"]
    run(composed(out, *scans, *again, name="evaluate"))
    evaluated = json.loads((out / "results.json").read_text())
    assert evaluated["spr_percent_over_uncorrected"] < 0.01
    assert evaluated["scatter_fraction_in_shadow_percent"] == pytest.approx(20)
