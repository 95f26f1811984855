"""Settings files: YAML or TOML."""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import yaml

from step37_flickr8k.errors import InvalidSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_settings_file"]


class _Loader(yaml.SafeLoader):
    """Reads numbers as people write them.

    YAML 1.1 also takes 0123456 for octal, 1:30 for a sexagesimal number and 2024-01-01 for a date.
    """


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in {_INT, _FLOAT, "tag:yaml.org,2002:timestamp"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in ((_INT, r"[-+]?(0|[1-9][0-9_]*)"), (_FLOAT, r"[-+]?[0-9]*\.[0-9]+")):
    _Loader.add_implicit_resolver(_tag, re.compile(f"{_pattern}$"), list("-+.0123456789"))


def read_settings_file(file: Path) -> tuple[dict[str, object], dict[str, str]]:
    """Return a settings file's values by setting, and the text of those that are no texts.

    Raises `InvalidSettings` for what is no settings file.
    """
    if file.suffix not in {".yaml", ".yml", ".toml"}:
        raise InvalidSettings(
            f"settings file {file}: {file.suffix or 'no ending'} is not known: "
            "name it .yaml, .yml or .toml"
        )
    try:
        text = file.read_text(encoding="utf-8")
        values, written = _parse_toml(text) if file.suffix == ".toml" else _parse_yaml(text)
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
    return (
        {_name(key): value for key, value in values.items()},
        {
            _name(key): text
            for key, text in written.items()
            if not isinstance(values.get(key), str | None)
        },
    )


def _name(key: object) -> str:
    return str(key).replace("-", "_")


def _refuse_twice(keys: Iterable[object]) -> None:
    """Refuse a setting that is there twice: YAML takes the last one, in silence."""
    names = Counter(map(_name, keys))
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"it sets {', '.join(twice)} more than once: keep the one that is meant")


def _parse_toml(text: str) -> tuple[object, dict[str, str]]:
    texts = tomllib.loads(text, parse_float=str)
    _refuse_twice(texts)
    return tomllib.loads(text), {key: str(value) for key, value in texts.items()}


def _parse_yaml(text: str) -> tuple[object, dict[str, str]]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        _refuse_twice(key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode))
        written = {
            key.value: value.value for key, value in pairs if isinstance(value, yaml.ScalarNode)
        }
        return loader.construct_document(node) or {}, written
    finally:
        loader.dispose()
