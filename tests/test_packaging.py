"""The installed package: its public names, its dependencies and its wheel."""

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from support.documents import code_blocks, made_smaller
from support.studies import REPOSITORY

import pcctlearn

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
APPLICATION = "hydra jinja2 matplotlib monai nibabel omegaconf pydicom pytorch_lightning wandb yaml"
CORE = "calibration decomposition losses montecarlo phantoms physics scatter solvers tomography"
WITHOUT_APPLICATION = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {APPLICATION.split()}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
IMPORT_THE_CORE = f"""
import importlib, pkgutil
import pcctlearn
for name in pcctlearn.__all__:
    getattr(pcctlearn, name)
for room in {CORE.split()}:
    package = getattr(pcctlearn, room)
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("_triton") and ".adapters." not in found.name:
            importlib.import_module(found.name)
"""


def python(*arguments, interpreter=sys.executable, cwd=REPOSITORY):
    done = subprocess.run(
        [interpreter, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_names_for_type_checkers_are_the_public_names():
    tree = ast.parse(Path(pcctlearn.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in block.body for alias in node.names}
    assert imported == set(pcctlearn.__all__) - {"__version__"}
    assert len(imported) == 14
    assert set(pcctlearn.__all__) - {"__version__"} <= set(dir(pcctlearn))
    for name in pcctlearn.__all__:
        assert getattr(pcctlearn, name) is not None
    with pytest.raises(AttributeError, match="Scanner"):
        pcctlearn.Scanner  # noqa: B018


NOUNS = {
    "calibration": "calibrate_thresholds Calibration GaussNewton",
    "decomposition": "Decomposition MaximumLikelihood PolynomialDecomposition decompose",
    "losses": "StageLoss TotalLoss",
    "metrics": "ErrorTable",
    "patients": "Cases NiftiCases DicomCases KitsCases SinoctCases Variants",
    "phantoms": "head",
    "physics": "SpectralModel Spectrum Thresholds mass_attenuation poisson_likelihood",
    "physics.response": "silicon cdte",
    "scans": "read_scan write_scan ScanFiles",
    "scatter": "ScatterCorrection ScatterNetwork KernelScatter UniformScatter",
    "simulation": "ScanSimulator SimulatedScans",
    "solvers": "Objective Solver Bounds Solution DampedNewton implicit_minimum",
    "testing": "check_adjoint check_linear check_gradient check_response",
    "tomography": "LinearOperator ImageGrid VolumeGrid projector fbp sirt os_sart cgls fista_tv",
    "training": "ChainModule ThresholdModule",
}


@pytest.mark.parametrize("room", NOUNS)
def test_the_public_nouns_of_a_room_exist(room):
    package = pcctlearn
    for part in room.split("."):
        package = getattr(package, part)
    for noun in {*NOUNS[room].split(), *getattr(package, "__all__", [])}:
        assert getattr(package, noun) is not None


def test_importing_the_package_loads_no_library():
    heavy = "print([name for name in ('torch', 'numpy', 'hydra') if name in sys.modules])"
    assert python("-c", f"import sys, pcctlearn; {heavy}").strip() == "[]"


def test_the_numerical_core_does_not_need_the_application():
    python("-c", WITHOUT_APPLICATION + IMPORT_THE_CORE)


def test_a_command_without_the_application_says_what_to_install():
    start = (
        "import sys; sys.argv = ['pcctlearn', 'train']\nfrom pcctlearn.app.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_APPLICATION + start],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'pcctlearn[app,ct,sweeps]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_versions_are_equal():
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == pcctlearn.__version__


def requirements(name):
    """Requirements of a file, without spaces and comments."""
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    bare = (line.partition("#")[0].replace(" ", "").replace('"', "'") for line in lines)
    return {line for line in bare if line and not line.startswith("-r")}


def declared(*extras):
    options = PROJECT["project"]["optional-dependencies"]
    found = {line for extra in extras for line in options[extra]}
    return {line.replace(" ", "") for line in found if not line.startswith("pcctlearn")}


def test_requirements_are_those_of_the_metadata():
    core = {line.replace(" ", "") for line in PROJECT["project"]["dependencies"]}
    assert requirements("requirements.txt") == core | declared("app", "ct", "sweeps")
    for extra in ("dev", "bench", "spectra"):
        assert requirements(f"requirements-{extra}.txt") == declared(extra)


def test_every_package_is_in_the_wheel():
    found = {
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for path in (REPOSITORY / "pcctlearn").rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {
        "pcctlearn.conf",
        "pcctlearn.data",
    }


@pytest.mark.physics
def test_an_installed_wheel_trains_outside_the_repository(tmp_path):
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    for name in ("pcctlearn", "conf", "data"):
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    wheel = ["wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", tmp_path]
    python("-m", "pip", *map(str, wheel), str(source))
    python("-m", "venv", "--without-pip", str(tmp_path / "venv"))
    fresh = tmp_path / "venv" / "bin" / "python"
    packages = Path(
        python("-c", "import site; print(site.getsitepackages()[0])", interpreter=fresh).strip()
    )
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (built,) = tmp_path.glob("*.whl")
    install = ["install", "-q", "--no-deps", "--no-index", str(built)]
    python("-m", "pip", "--python", str(fresh), *install)

    elsewhere.mkdir()
    where = python(
        "-c", "import pcctlearn; print(pcctlearn.__file__)", interpreter=fresh, cwd=elsewhere
    )
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")
    blocks = code_blocks((REPOSITORY / "README.md").read_text(encoding="utf-8"), "python")
    code = WITHOUT_APPLICATION + made_smaller("".join(blocks))
    python("-c", code, interpreter=fresh, cwd=elsewhere)
    words = ["experiment=thresholds_slabs", "study.max_steps=2", "logger=none", "n_threads=1"]
    words += ["study.water_cm=[0.0,24.0,8.0]", "study.calcium_cm=[0.0,1.0,0.5]"]
    command = str(tmp_path / "venv" / "bin" / "pcctlearn")
    python(command, "train", *words, interpreter=fresh, cwd=elsewhere)
    assert list(elsewhere.glob("outputs/thresholds_slabs/*/results.json"))
    assert [path.name for path in elsewhere.iterdir()] == ["outputs"]
