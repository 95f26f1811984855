"""Texts that nobody can have meant: what a shell, a template or an editor left in a value.

They come through every source: env files keep quotes, Windows editors add carriage returns,
manifests and batch scripts pass on ``$SCRATCH`` where no shell expands it. Taken as they are, they
name a directory that the training never reads.
"""

import re
from pathlib import Path

from step37_flickr8k.errors import InvalidSettings

__all__ = [
    "as_meant",
    "as_meant_in_a_table",
    "expand_path",
    "path_argument",
    "why_not_meant",
    "why_not_path",
]

_UNEXPANDED = re.compile(r"\$(?:\w+|\{[^}]*\}?|\([^)]*\)?)|\{\{.*?\}\}|`[^`]*`")
_QUOTES = {("'", "'"), ('"', '"'), ("\u2018", "\u2019"), ("\u201c", "\u201d")}
_NOTHING = {"none", "null", "nil", "undefined", "<nil>", "<no value>"}  # as templates write it


def why_not_meant(text: str) -> str:
    """Return why a text can't be meant as a name, an address or a path; empty if it can."""
    if re.search(r"[\r\n]", text):
        return "it holds a line break: remove that (\\r comes from a file with Windows line ends)"
    if re.search(r"[\x00-\x1f\x7f]", text):
        return "it holds a control character: remove that"
    if text != text.strip():
        return "it begins or ends with a blank: remove that"
    if len(text) > 1 and (text[0], text[-1]) in _QUOTES:
        return "its quotes are part of the value: remove them (env files and YAML blocks keep them)"
    if found := _UNEXPANDED.search(text):
        return (
            f"nothing has expanded {found[0]}: write what it stands for, or set this where a shell"
            " or the scheduler expands it"
        )
    return ""


def why_not_path(text: str) -> str:
    """Return why a text can't be meant as a path; empty if it can."""
    if why := why_not_meant(text):
        return why
    if text.lower() in _NOTHING:
        return "a template's word for no value: leave it unset, or name a path"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return "an address is no path: name where it is mounted here"
    if "~" in text.split("/")[1:]:
        return "~ is expanded at the beginning alone: write the home directory in full"
    return ""


def path_argument(name: str, value: object) -> Path:
    """Return a path given to a library call; raises `InvalidSettings` if it can't be meant."""
    try:
        return Path(str(expand_path(value)))
    except ValueError as error:
        raise InvalidSettings(f"{name}={str(value)!r} (the call) is wrong: {error}") from None


def as_meant(value: object) -> object:
    """Return a value; raises ValueError with the remedy for a text that can't be meant."""
    if isinstance(value, str) and (why := why_not_meant(value)):
        raise ValueError(why)
    return value


def as_meant_in_a_table(value: object) -> object:
    """Return the name of a column, which may have edge blanks: a table's reader strips both."""
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("empty")
        as_meant(value.strip(" "))
    return value


def expand_path(value: object) -> object:
    """Expand ``~``; an empty path would be the current directory.

    A `Path` is taken as it is: no shell and no settings file makes one. So a directory that is
    really called ``$x`` can be named in Python.
    """
    if isinstance(value, str) and not value.strip():
        raise ValueError("empty")
    if isinstance(value, str) and (why := why_not_path(value)):
        raise ValueError(why)
    if not isinstance(value, str | Path):
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:  # no such user, or no HOME
        raise ValueError(str(error)) from None
    try:
        path.absolute()
    except OSError:
        raise ValueError("the working directory is gone: write the whole path") from None
    return path
