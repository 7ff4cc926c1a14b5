"""Every file under conf/ is a call of a constructor in the module that its folder names."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from support.configs import CONF, composed

from pcctlearn.app.config import check_config
from pcctlearn.reading.targets import locate

FILES = sorted(
    path.relative_to(CONF)
    for path in CONF.rglob("*/*.yaml")
    if path.name[0] != "_"  # bases
)
EXPERIMENTS = [file.stem for file in FILES if file.parent.name == "experiment"]
OF_RUNS = {"scatter_judgement"}  # experiments that need finished runs
GLOBAL = {"experiment", "launcher", "sweep"}  # set keys of other groups
CHOICES = [file for file in FILES if file.parent.name not in GLOBAL]
FOREIGN = {"logger", "trainer", "callbacks"}  # build other libraries' classes
OF_SIMULATE = (
    "detector",
    "montecarlo",
    "scan",
    "datasets/plates",
    "datasets/bench",
)  # what train.yaml lacks
# groups whose name differs from the module that is built
ROOMS = {
    "datasets": "patients",
    "datasets.bench": "simulation.bench",
    "datasets.plates": "simulation.plates",
    "datasets.scans": "scans",
    "detector": "montecarlo.detector",
    "montecarlo.transport": "montecarlo.object.transport",
    "reference": "scans.reference",
    "scan": "simulation.simulator",
}
NEEDS = {
    "decomposition/proxy.yaml": ["decomposition.weights=proxy.pt"],
    "datasets/scans.yaml": ["datasets.folder=scans"],
    "scan/of_plates.yaml": ["scan.pixel_model.path=plates.h5"],
    "physics/response/file.yaml": ["physics.response.path=response.csv"],
    "physics/spectrum/file.yaml": ["physics.spectrum.table=spectrum.csv"],
}


# groups that only some experiments have, and the key under which they have them
OWNERS = {
    "phantoms": ("thresholds_phantom", "phantoms"),
    "calibration": ("etb_validation_single", "study.calibrations.anchored"),
}


def key_of(file):
    """Where a choice stands in the configuration."""
    return OWNERS.get(file.parts[0], (None, ".".join(file.parent.parts)))[1]


def choice(file):
    group, key = file.parent.as_posix(), key_of(file)
    return (
        f"{group}={file.stem}" if key == group.replace("/", ".") else f"{group}@{key}={file.stem}"
    )


def composed_with(file, folder, *overrides):
    """Compose the choice of this file, in the command that has its group."""
    if file.as_posix().startswith(OF_SIMULATE):
        return composed(folder, choice(file), *overrides, name="simulate")
    logger = [] if file.parts[0] == "logger" else ["logger=none"]
    owner = [f"experiment={OWNERS[file.parts[0]][0]}"] if file.parts[0] in OWNERS else []
    return composed(folder, *owner, choice(file), *logger, *overrides)


def targets(node):
    """Every node of a plain configuration that builds an object."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from targets(item)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_builds(experiment, tmp_path):
    config = composed(tmp_path, f"experiment={experiment}", "logger=none")
    check_config(config)
    assert config.study._target_.startswith("pcctlearn.studies.")
    if experiment in OF_RUNS:
        with pytest.raises(InstantiationException, match=r"study\.runs"):
            instantiate(config.job, _convert_="all")
        return
    assert callable(instantiate(config.job, _convert_="all").run)


@pytest.mark.parametrize("file", CHOICES, ids=Path.as_posix)
def test_every_choice_composes_and_its_keys_are_parameters(file, tmp_path):
    config = composed_with(file, tmp_path, *NEEDS.get(file.as_posix(), []))
    check_config(config)


@pytest.mark.parametrize(
    "file", [file for file in CHOICES if file.parts[0] not in FOREIGN], ids=Path.as_posix
)
def test_the_folder_is_the_path_of_what_is_built(file, tmp_path):
    path = ".".join(file.parent.parts)
    needs = NEEDS.get(file.as_posix(), [])
    node = OmegaConf.select(composed_with(file, tmp_path, *needs), key_of(file))
    room = ROOMS.get(f"{path}.{file.stem}", ROOMS.get(path, path))
    built = [node] if "_target_" in node else list(node.values())
    assert all(part._target_.startswith(f"pcctlearn.{room}.") for part in built)
    if file.as_posix() not in NEEDS:
        if file.stem == "spekpy":
            pytest.importorskip("spekpy", reason="spekpy is an option, requirements-spectra.txt")
        instantiate(node, _convert_="all")


@pytest.mark.parametrize("file", CHOICES, ids=Path.as_posix)
def test_each_written_key_is_a_parameter(file):
    for node in targets(OmegaConf.to_container(OmegaConf.load(CONF / file))):
        parameters = inspect.signature(locate(node["_target_"])).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        written = {key for key in node if key[0] != "_" and key != "defaults"}
        assert written <= set(parameters), node["_target_"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_in_the_global_package(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n")


def test_early_stopping_keeps_the_callbacks_of_learning(tmp_path):
    learning = composed(tmp_path, "trainer=learning").callbacks
    stopping = composed(tmp_path, "trainer=early_stopping").callbacks
    assert set(stopping) == {*learning, "early_stopping"}
    assert all(stopping[name] == learning[name] for name in learning)


def test_a_trainer_and_a_logger_are_built(tmp_path):
    config = composed(tmp_path, "logger=csv")
    trainer = instantiate(config.trainer, _convert_="all")
    assert type(trainer).__name__ == "Trainer"
    assert type(trainer.logger).__name__ == "CSVLogger"
    assert composed(tmp_path, "logger=none").logger is False


@pytest.mark.parametrize(
    "file", sorted(CONF.glob("datasets/[!_]*.yaml")), ids=lambda file: file.stem
)
def test_every_data_set_can_be_simulated(file, tmp_path):
    # a slice, frames in a fan beam without scatter, and existing scans
    if file.stem not in ("axial_slice", "bench", "scans"):
        config = composed(tmp_path, f"datasets={file.stem}", name="simulate")
        check_config(config)
        instantiate(config.scan, _convert_="all")


@pytest.mark.parametrize("command", ["train", "simulate", "calibrate", "evaluate"])
@pytest.mark.parametrize("name", ["local", "joblib", "slurm"])
def test_every_command_has_the_launchers(command, name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(command, [f"launcher={name}"], return_hydra_config=True)
    wanted = {"local": "Basic", "joblib": "Joblib", "slurm": "Slurm"}[name]
    assert wanted in config.hydra.launcher._target_


@pytest.mark.parametrize("name", ["scatter_table", "decompositions", "optuna"])
def test_a_sweep_is_a_multirun_over_existing_keys(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"sweep={name}"], return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN"
    for key, values in config.hydra.sweeper.params.items():
        if key == "experiment":
            assert set(values.split(",")) <= set(EXPERIMENTS)
        else:
            assert OmegaConf.select(config, key) is not None
