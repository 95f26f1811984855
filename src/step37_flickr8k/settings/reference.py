"""The settings as documentation: flags, tables, the JSON schema."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from step37_flickr8k.settings.model import WarmupSettings
from step37_flickr8k.settings.names import SECRETS, fields, flag_of, variable_of
from step37_flickr8k.settings.sources import Loaded

__all__ = [
    "Flag",
    "describe_settings",
    "flags",
    "json_schema",
    "settings_as_json",
    "settings_table",
]

# The headings under which `--help` shows the flags.
_GROUPS = {
    "what": (
        *("repo_id", "revision", "split", "sample_count", "caption_key", "bad_images"),
        "max_pixels",
    ),
    "where": ("cache_dir", "cache_scope"),
    "connection": (
        *("endpoint", "token_file", "offline", "fetch_mode", "concurrency", "attempts"),
        "job_secret_file",
    ),
    "timeouts": (
        *("connect_timeout", "read_timeout", "arrival_timeout", "heartbeat_timeout"),
        *("stall_timeout", "visibility_timeout"),
    ),
    "output": ("log_level", "log_format", "progress", "report"),
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}
_PLACEHOLDERS: dict[object, str] = {int: "N", float: "SECONDS", Path: "PATH"}


@dataclass(frozen=True)
class Flag:
    """The flag of a setting.

    ``group`` is its heading in ``--help``, ``placeholder`` stands there for the value: empty for a
    switch. ``choices`` is None where any value may come.
    """

    setting: str
    flag: str
    help: str
    group: str
    placeholder: str = ""
    choices: tuple[str, ...] | None = None


def describe_settings(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return (setting, value, origin) of every setting, as one would type it, secrets masked."""
    return [
        (name, _written(name, getattr(loaded.settings, name)), loaded.origins[name])
        for name in fields()
    ]


def settings_as_json(loaded: Loaded) -> dict[str, object]:
    """Return value and origin of every setting, secrets masked."""
    values = loaded.settings.model_dump(mode="json")
    return {name: {"value": value, "from": loaded.origins[name]} for name, value in values.items()}


def _written(name: str, value: object) -> str:
    """Return a value as one would type it; empty where there is none."""
    if value is None:
        return "all" if name == "sample_count" else ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each}" for key, each in value.items())
    return str(value)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the settings."""
    return WarmupSettings.model_json_schema()


def settings_table() -> str:
    """Return the Markdown table of all settings."""
    lines = ["| setting | flag | environment | default | meaning |", "|---|---|---|---|---|"]
    for name, field in WarmupSettings.model_fields.items():
        flag = "" if name in SECRETS else f"`{flag_of(name)}`"
        default = _written(name, field.default)
        default = default and f"`{default}`"
        lines.append(
            f"| `{name}` | {flag} | `{variable_of(name)}` | {default} | {field.description} |"
        )
    return "\n".join(lines)


def flags() -> Iterator[Flag]:
    """Yield the flags of all settings but the secrets."""
    for name, field in WarmupSettings.model_fields.items():
        if name in SECRETS:
            continue
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None
        is_switch = field.annotation is bool
        default = _written(name, field.default)
        shown = f" (default: {default})" if default and not is_switch else ""
        kind = next((each for each in _PLACEHOLDERS if each in _types_in(field.annotation)), None)
        placeholder = "" if is_switch else _PLACEHOLDERS.get(kind, name.upper())
        yield Flag(
            setting=name,
            flag=flag_of(name),
            help=f"{field.description}{shown} [env: {variable_of(name)}]".replace(
                "%", "%%"
            ).replace("`", ""),
            group=_GROUP_OF[name],
            placeholder=placeholder,
            choices=choices,
        )


def _types_in(annotation: object) -> set[object]:
    """Return the types that an annotation is made of."""
    arguments = get_args(annotation)
    return {annotation}.union(*map(_types_in, arguments)) if arguments else {annotation}
