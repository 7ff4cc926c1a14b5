"""The argument that a message shows can be typed and gives the intended value."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pcctlearn.app.quoting import ambiguous, typed, unreadable

SPECIAL = st.text("\\\"'${}[]()=,:;#&*? \tÅ漢a", max_size=12)
ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def given_by(word):
    """The value in the configuration after an argument of the command line."""
    override = OverridesParser.create().parse_override(word)
    config = OmegaConf.create()
    OmegaConf.update(config, "key.of", override.value())
    return config.key.of


@given(st.one_of(SPECIAL, ANY))
@example("")
@example("C:\\scans\\")
@example('say "${seed}"')
def test_any_quoted_text_passes_shell_and_grammar_unchanged(text):
    (word,) = shlex.split(typed("key.of", text))
    assert given_by(word) == text


@pytest.mark.parametrize(
    "name", ["Łódź.nii", "a[1].nii", "a=b.nii", "a#b.nii", "it's.nii", "{a}.nii", "a(1).nii", "[b"]
)
def test_the_message_shows_the_argument_to_type(name):
    sentence = unreadable(f"datasets.path={name}")
    shown = typed("datasets.path", name)
    assert shown in sentence
    assert given_by(shlex.split(shown)[0]) == name


@pytest.mark.parametrize("word", ["scan.h5", "=x", "a b=c", "ключ=1", ""])
def test_arguments_without_key_and_value_are_refused(word):
    assert "KEY=VALUE" in unreadable(word)


def test_a_value_with_commas_can_be_a_list_or_a_text():
    sentence = ambiguous("key.of=a,b")
    as_list, as_text = "'key.of=[a,b]'", "'key.of=\"a,b\"'"
    assert as_list in sentence
    assert as_text in sentence
    assert given_by(shlex.split(as_list)[0]) == ["a", "b"]
    assert given_by(shlex.split(as_text)[0]) == "a,b"
