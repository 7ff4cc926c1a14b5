"""Messages that show how to type an argument that Hydra cannot read."""

import re
import shlex


def typed(key: str, value: str) -> str:
    """KEY=VALUE with the value as plain text, quoted for Hydra and for the shell."""
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # no interpolation
    value = re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), value)
    return shlex.quote(f'{key}="{value}"')


def unreadable(word: str) -> str:
    """The message about an argument that is not KEY=VALUE in Hydra's grammar."""
    key, equals, value = word.partition("=")
    if not re.fullmatch(r"(\+\+?|~)?[A-Za-z_][\w.$/@:-]*", key, re.ASCII):
        return (
            f"{word!r} cannot be read: every word is KEY=VALUE, with a key of letters, digits, "
            "underscores and dots, as in seed=1"
        )
    if not equals:
        return f"{word!r} has no value: every word is KEY=VALUE, as in seed=1"
    hint = ""
    if value[:1] in ("[", "{"):
        hint = '; if it is a list, quote each text in it, as in \'KEY=["first","second"]\''
    return (
        f"{word!r} cannot be read: a text with special characters needs two kinds of quotes, "
        f"{typed(key, value)}{hint}"
    )


def ambiguous(word: str) -> str:
    """The message about a value with commas outside a sweep."""
    key, _, value = word.partition("=")
    listed = shlex.quote(f"{key}=[{value}]")
    return (
        f"{word!r} holds several values: write a list as {listed}, one text with commas as "
        f"{typed(key, value)}, or add -m to run once with each"
    )
