"""Settings files: YAML or TOML."""

import sys
from pathlib import Path

import yaml

from step37_flickr8k.errors import InvalidSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_settings_file"]


def read_settings_file(file: Path) -> dict[str, object]:
    """Return a settings file's values by setting; raises `InvalidSettings` for what isn't one."""
    if file.suffix not in {".yaml", ".yml", ".toml"}:
        raise InvalidSettings(
            f"settings file {file}: {file.suffix or 'no ending'} is not known: "
            "name it .yaml, .yml or .toml"
        )
    try:
        values = _parse(file.read_text(encoding="utf-8"), file.suffix)
    except FileNotFoundError:
        raise InvalidSettings(
            f"settings file {file} is not there: correct --settings or STEP37_SETTINGS"
        ) from None
    except Exception as error:  # noqa: BLE001 - each parser has its own tree of errors
        raise InvalidSettings(
            f"settings file {file} can't be read: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, dict):
        raise InvalidSettings(
            f"settings file {file} holds no settings: write a line for each, as in sample_count: 8"
        )
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def _parse(text: str, ending: str) -> object:
    return tomllib.loads(text) if ending == ".toml" else yaml.safe_load(text) or {}
