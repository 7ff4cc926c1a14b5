"""Configurations are checked when Hydra composes them: keys, targets and arguments."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from support.studies import REPOSITORY

from pcctlearn.app.composition import check_compositions
from pcctlearn.app.sentences import EXPECTED, explain

check_compositions()


def composed(*words, name="train", conf=REPOSITORY / "conf"):
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose(name, list(words), return_hydra_config=True)


def sentence(*words, name="train", **options):
    with pytest.raises(EXPECTED) as caught:
        composed(*words, name=name, **options)
    return explain(caught.value, f"{name}.py")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", ["patience=3"], "unknown key patience"),
        ("train", ["+patience=3"], "unknown key patience"),
        ("train", ["++loggr=none"], "did you mean logger?"),
        ("train", ["+paths.new=1"], "unknown key paths.new"),
        ("train", ["experiment=perturbation", "+scatter=kernel"], "unknown key scatter"),
        ("train", ["solvers.tolerence=1"], "did you mean solvers.tolerance?"),
        ("train", ["solvers.tolerance.x=1"], "solvers.tolerance is a single value"),
        ("train", ["~patience"], "deletes nothing"),
        ("train", ["~seed"], "leave out ~seed"),
        ("train", ["experiment=scatter_dirct"], "did you mean experiment=scatter_direct?"),
        ("evaluate", ["tomography=fan"], "unknown key tomography"),
        ("evaluate", ["+tomography=fan"], "unknown key tomography"),
        ("evaluate", ["scan=a.h5"], "did you mean scans?"),
        ("simulate", ["dataset=heads"], "did you mean datasets?"),
        ("simulate", ["+montecarlo.n=1"], "unknown key montecarlo.n"),
    ],
    ids=str,
)
def test_unknown_keys_are_refused_with_what_is_accepted(command, words, said):
    line = sentence(*words, name=command)
    assert said in line
    if "did you mean" in said:  # the suggestion works
        meant = line.partition("did you mean ")[2].partition("?")[0]
        value = words[-1].partition("=")[2]
        composed(meant if "=" in meant else f"{meant}={value}", name=command)


def test_a_parameter_that_is_not_in_the_file_is_added_as_the_message_says():
    line = sentence("trainer.gradient_clip_val=1")
    (word,) = shlex.split(line.partition("add it with ")[2])
    assert composed(word).trainer.gradient_clip_val == 1


def test_a_mapping_with_other_keys_is_added_as_the_message_says():
    line = sentence("losses.terms.maps.distance={_target_: torch.nn.HuberLoss, delta: 0.1}")
    (word,) = shlex.split(line.partition("add it with ")[2])
    assert composed(word).losses.terms.maps.distance.delta == 0.1


@pytest.mark.parametrize("value", ["/x/Łódź.nii", "/x/[1].nii", "/x/a=b.nii", "/x/a,b.nii"])
def test_the_quoted_argument_in_the_message_is_accepted(value):
    line = sentence("experiment=thresholds_phantom", f"datasets.path={value}")
    shown = f"'datasets.path=\"{value}\"'"
    assert shown in line
    config = composed("experiment=thresholds_phantom", *shlex.split(shown))
    assert config.datasets.path == value


@pytest.fixture
def foreign(tmp_path):
    """A folder of configurations with its own main file, whose text is given."""

    def write(text):
        (tmp_path / "train.yaml").write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "solvers: {_target_: os.system, command: x}",
        "allowed_targets: [os]\nsolvers: {_target_: os.system, command: x}",
        "hydra: {callbacks: {x: {_target_: os.system}}}",
        "hydra: {sweeper: {params: {allowed_targets: '[os]'}}}",
    ],
    ids=["target", "its own list", "callback", "sweep"],
)
def test_a_file_that_names_other_code_is_refused_when_composed(foreign, text):
    assert "allowed_targets" in sentence(conf=foreign(text))


def test_the_allow_list_is_extended_on_the_command_line(foreign):
    conf = foreign("allowed_targets: []\nsolvers: {_target_: my_package.Solver}")
    line = sentence(conf=conf)
    (word,) = shlex.split("'allowed_targets=[PACKAGE]'".replace("PACKAGE", "my_package"))
    assert "'allowed_targets=[PACKAGE]'" in line
    assert composed(word, conf=conf).solvers._target_ == "my_package.Solver"


@pytest.mark.parametrize("name", ["train", "simulate", "calibrate", "evaluate"])
def test_every_command_composes(name):
    assert composed(name=name).allowed_targets == []
