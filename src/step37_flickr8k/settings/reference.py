"""The settings as documentation: flags, tables, the JSON schema."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from step37_flickr8k.settings.model import WarmupSettings
from step37_flickr8k.settings.names import SECRETS, fields, flag_of, variable_of
from step37_flickr8k.settings.sources import Loaded

__all__ = ["Flag", "describe_settings", "flags", "json_schema", "settings_table"]


@dataclass(frozen=True)
class Flag:
    """The flag of a setting.

    ``takes_value`` is False for a switch, ``choices`` None where any value may come.
    """

    setting: str
    flag: str
    help: str
    choices: tuple[str, ...] | None = None
    takes_value: bool = True


def describe_settings(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return (setting, value, origin) of every setting, secrets masked."""
    values = {name: getattr(loaded.settings, name) for name in fields()}
    return [
        (
            name,
            "all" if (name, value) == ("sample_count", None) else str(value),
            loaded.origins[name],
        )
        for name, value in values.items()
    ]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the settings."""
    return WarmupSettings.model_json_schema()


def settings_table() -> str:
    """Return the Markdown table of all settings."""
    lines = ["| setting | flag | environment | default | meaning |", "|---|---|---|---|---|"]
    for name, field in WarmupSettings.model_fields.items():
        flag = "" if name in SECRETS else f"`{flag_of(name)}`"
        default = {"None": "", "600.0": "600", "{}": "", "False": "false"}.get(
            str(field.default), str(field.default)
        )
        default = "`all`" if name == "sample_count" else default and f"`{default}`"
        lines.append(
            f"| `{name}` | {flag} | `{variable_of(name)}` | {default} | {field.description} |"
        )
    return "\n".join(lines)


def flags() -> Iterator[Flag]:
    """Yield the flags of all settings but the secrets."""
    for name, field in WarmupSettings.model_fields.items():
        if name in SECRETS:
            continue
        is_literal = get_origin(field.annotation) is Literal
        default = "all" if name == "sample_count" else field.default
        shown = "" if default is None else f" (default: {default})"
        yield Flag(
            setting=name,
            flag=flag_of(name),
            help=f"{field.description}{shown}".replace("%", "%%").replace("`", ""),
            choices=get_args(field.annotation) if is_literal else None,
            takes_value=field.annotation is not bool,
        )
