"""How settings are called: fields of the model, flags, environment variables."""

import difflib
from collections.abc import Iterable

from step37_flickr8k.settings.model import WarmupSettings

__all__ = [
    "LAUNCHER_VARIABLES",
    "PREFIX",
    "SECRETS",
    "closest",
    "fields",
    "flag_of",
    "guess",
    "variable_of",
    "variables",
]

PREFIX = "STEP37_"
# Variables that are no settings; a third one names a settings file.
LAUNCHER_VARIABLES = ("STEP37_NODE_NAME", "STEP37_RUN_ID")
# Secrets have no flag, since command lines are public, and are never shown.
SECRETS = {"token", "headers"}


def fields() -> list[str]:
    """Return the names of all settings."""
    return list(WarmupSettings.model_fields)


def flag_of(name: str) -> str:
    """Return the flag of a setting: ``--cache-dir``."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """Return the environment variable of a setting: ``STEP37_CACHE_DIR``."""
    return PREFIX + name.upper()


def variables() -> list[str]:
    """Return all variables with the prefix that mean something."""
    return [*map(variable_of, fields()), *LAUNCHER_VARIABLES, "STEP37_SETTINGS"]


def guess(name: str, known: list[str]) -> str:
    """Return the end of a message about an unknown name: the closest known one, or all of them."""
    return closest(name, known) or f": known are {', '.join(known)}"


def closest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest known one, if one is close."""
    bare = {each.removeprefix(PREFIX): each for each in known}
    close = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1)
    return f": did you mean {bare[close[0]]}?" if close else ""
