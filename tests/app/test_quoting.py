"""The word that a message shows can be typed, and means what was meant."""

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
    """What the configuration holds after a word of the command line."""
    override = OverridesParser.create().parse_override(word)
    config = OmegaConf.create()
    OmegaConf.update(config, "key.of", override.value())
    return config.key.of


@given(st.one_of(SPECIAL, ANY))
@example("")
@example("C:\\scans\\")
@example('say "${seed}"')
def test_any_text_goes_through_shell_and_grammar(text):
    (word,) = shlex.split(typed("key.of", text))
    assert given_by(word) == text


@pytest.mark.parametrize(
    "name", ["Łódź.nii", "a[1].nii", "a=b.nii", "a#b.nii", "it's.nii", "{a}.nii", "a(1).nii", "[b"]
)
def test_the_sentence_shows_the_word(name):
    sentence = unreadable(f"datasets.path={name}")
    shown = typed("datasets.path", name)
    assert shown in sentence
    assert given_by(shlex.split(shown)[0]) == name


@pytest.mark.parametrize("word", ["scan.h5", "=x", "a b=c", "ключ=1", ""])
def test_words_that_are_not_key_and_value(word):
    assert "KEY=VALUE" in unreadable(word)


def test_commas_are_a_list_or_one_text():
    sentence = ambiguous("key.of=a,b")
    as_list, as_text = "'key.of=[a,b]'", "'key.of=\"a,b\"'"
    assert as_list in sentence
    assert as_text in sentence
    assert given_by(shlex.split(as_list)[0]) == ["a", "b"]
    assert given_by(shlex.split(as_text)[0]) == "a,b"
