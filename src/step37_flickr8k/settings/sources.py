"""Where settings come from, and which source wins.

Strongest first: the command line, ``STEP37_*`` variables, the settings file, the Hub's own
variables (``HF_ENDPOINT``, ``HF_TOKEN``, ...), defaults.
"""

import contextlib
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.errors import InvalidSettings
from step37_flickr8k.settings.hub_variables import BYTE_ORDER_MARK, Layer, hub_layer, token_in
from step37_flickr8k.settings.model import BEGINS_WITH_A_MARK, WarmupSettings, expand_path
from step37_flickr8k.settings.names import (
    SECRETS,
    fields,
    flag_of,
    guess,
    variable_of,
    variables,
)
from step37_flickr8k.settings.variables import unknown_variables, unmeant_variables

__all__ = [
    "SELECTION",
    "Loaded",
    "call_settings",
    "contradictions",
    "library_settings",
    "load_settings",
]

log = logging.getLogger("step37_flickr8k")

SELECTION = {
    "repo_id",
    "revision",
    "split",
    "sample_count",
    "caption_key",
    "cache_dir",
    "bad_images",
}


@dataclass(frozen=True)
class Loaded:
    """Settings and, by name, where each value came from."""

    settings: WarmupSettings
    origins: Mapping[str, str]


def load_settings(
    flags: Mapping[str, object], *, file: Path | None = None, environ: Mapping[str, str]
) -> Loaded:
    """Read and validate every source; raises `InvalidSettings` with a line for each problem."""
    problems = [
        f"{name}: no such setting{guess(name, variables())}" for name in unknown_variables(environ)
    ]
    problems += unmeant_variables(environ)
    layers, wrong = _layers(_named_file(file, environ), environ)
    return _validated([*layers, Layer(flags, flag_of)], [*problems, *wrong])


def _layers(file: Path | None, environ: Mapping[str, str]) -> tuple[list[Layer], list[str]]:
    """Return the layers of huggingface_hub's variables, the file and ``STEP37_*``, weakest first.

    The second value holds a line for each unknown key of the file.
    """
    values, written = _of_file(file)
    wrong = [
        f"{key}: no such setting in {file}{guess(key, fields())}"
        for key in values
        if key not in fields()
    ]
    known = {name: value for name, value in values.items() if name in fields()}
    of_file = Layer(known, lambda _: str(file), written)
    return [hub_layer(environ), of_file, _environment_layer(environ)], wrong


def contradictions(*, file: Path | None = None, environ: Mapping[str, str]) -> list[str]:
    """Return a line for each setting that the environment and the settings file set differently.

    The line says which one is in force. Call `load_settings` first: it raises for invalid values.
    """
    file = _named_file(file, environ)
    in_file, _ = _of_file(file)
    found = []
    for layer, holds in (
        (hub_layer(environ), str(file)),
        (_environment_layer(environ), "the environment"),
    ):
        for name, value in layer.values.items():
            if name in in_file and _parsed(name, value) != _parsed(name, in_file[name]):
                found.append(_contradiction(name, (value, in_file[name]), layer, (file, holds)))
    return found


def _contradiction(
    name: str, values: tuple[object, object], layer: Layer, sources: tuple[Path | None, str]
) -> str:
    here, there = ("", " another") if name in SECRETS else (f" is {values[0]}", f" is {values[1]}")
    file, holds = sources
    return f"{name}{here} by {layer.origin(name)} and{there} in {file}: that of {holds} holds"


def _parsed(name: str, value: object) -> object:
    # A value that another source overrides was never validated.
    with contextlib.suppress(ValidationError):
        return getattr(WarmupSettings.model_validate({name: value}), name)
    return value


def library_settings(environ: Mapping[str, str]) -> WarmupSettings:
    """Return the settings that a library call takes from its environment: all but the selection.

    They come from the environment and from the file that ``STEP37_SETTINGS`` names. An unknown
    ``STEP37_`` variable is only a warning: in a training job the prefix may belong to others, too.
    """
    for name in unknown_variables(environ):
        log.warning("%s is no setting of step37-flickr8k%s", name, guess(name, variables()))
    layers, wrong = _layers(_named_file(None, environ), environ)
    rest = [
        Layer(
            {name: each.values[name] for name in each.values.keys() - SELECTION},
            each.origin,
            each.written,
        )
        for each in layers
    ]
    return _validated(rest, [*unmeant_variables(environ), *wrong]).settings


def call_settings(
    selection: Selection, *, cache_dir: str, bad_images: Literal["skip", "error"]
) -> WarmupSettings:
    """Return a library call's arguments, validated; raises `InvalidSettings` with a line each."""
    try:
        return WarmupSettings(
            repo_id=selection.repo_id,
            split=selection.split,
            caption_key=selection.caption_key,
            sample_count=selection.sample_count,
            revision=selection.revision,
            cache_dir=cache_dir,
            bad_images=bad_images,
        )
    except ValidationError as error:
        given = {**asdict(selection), "cache_dir": cache_dir, "bad_images": bad_images}
        origins = dict.fromkeys(given, "the call")
        raise InvalidSettings(*_problems(error, given, origins)) from None


def _environment_layer(environ: Mapping[str, str]) -> Layer:
    return Layer(
        {name: environ[variable_of(name)] for name in fields() if environ.get(variable_of(name))},
        variable_of,
    )


def _named_file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    named, origin = environ.get("STEP37_SETTINGS"), "STEP37_SETTINGS"
    if file is not None:
        named, origin = str(file), "--settings"
    if not named:
        return None
    try:
        return Path(str(expand_path(named)))
    except ValueError as error:
        raise InvalidSettings(f"{origin}={named!r} is wrong: {error}") from None


def _of_file(file: Path | None) -> tuple[dict[str, object], dict[str, str]]:
    if file is None:
        return {}, {}
    # Parsers are loaded only where there is a settings file.
    from step37_flickr8k.settings.files import read_settings_file  # noqa: PLC0415

    return read_settings_file(file)


def _validated(layers: list[Layer], problems: list[str]) -> Loaded:
    values: dict[str, object] = {}
    origins = dict.fromkeys(fields(), "default")
    written: dict[str, str] = {}
    strongest = ""  # of token and token_file
    for layer in layers:
        given = {
            name: value
            for name, value in layer.values.items()
            if (name, value) != ("token_file", None)
        }
        for name, value in given.items():
            values[name], origins[name] = value, layer.origin(name)
            written.pop(name, None)
            written |= {name: layer.written[name]} if name in layer.written else {}
        if {"token", "token_file"} <= given.keys():
            problems.append(
                f"token and token_file are both set by {layer.origin('token')} and its like: "
                "keep one"
            )
        strongest = next((name for name in ("token_file", "token") if name in given), strongest)
    if strongest == "token_file":
        token, problem = _read_token(values["token_file"])
        values["token"], origins["token"] = token, origins["token_file"]
        problems += [f"token_file: {problem} ({origins['token_file']})"] if problem else []
    settings = None
    try:
        settings = WarmupSettings.model_validate(values)
    except ValidationError as error:
        problems += _problems(error, values, origins, written)
    if problems or settings is None:
        raise InvalidSettings(*problems) from None
    return Loaded(settings, origins)


def _read_token(named: object) -> tuple[str | None, str]:
    try:
        file = Path(str(expand_path(named)))
    except ValueError:  # reported for the setting itself
        return None, ""
    try:
        token = token_in(file)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        return None, f"{file} can't be read ({why}): name a file with the token"
    if token.startswith(BYTE_ORDER_MARK):
        return None, f"{file} {BEGINS_WITH_A_MARK}"
    return (token, "") if token else (None, f"{file} is empty: put the token into it")


# Pydantic's kinds of errors that speak of parsing, in a user's words.
_PLAIN = {
    "int_parsing": "not a whole number",
    "int_from_float": "not a whole number",
    "float_parsing": "not a number of seconds",
    "bool_parsing": "neither true nor false",
}


def _problems(
    error: ValidationError,
    values: Mapping[str, object],
    origins: Mapping[str, str],
    written: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a line for each problem; ``written`` are values as a settings file writes them."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    problems = []
    for each in found:
        name, message = str(each["loc"][0]), _PLAIN.get(each["type"], each["msg"])
        if each["type"] == "string_type" and written and name in written:
            message = f"{type(values[name]).__name__}, no text; quote it: {written[name]!r}"
        problems.append(_explain(name, message, values, origins))
    return problems


def _explain(
    name: str, message: str, values: Mapping[str, object], origins: Mapping[str, str]
) -> str:
    """Return the line about an invalid value: setting, value (no secret's), source, remedy."""
    if name not in fields():
        return f"{name}: no such setting{guess(name, fields())}"
    value = re.sub(r"//[^/]*@", "//***@", repr(values.get(name)))
    shown = "" if name in SECRETS else f"={value}"
    what = message.removeprefix("Value error, ").removeprefix("Input should be ")
    meaning = WarmupSettings.model_fields[name].description
    return f"{name}{shown} ({origins[name]}) is wrong: {what}; {name} is {meaning}"
