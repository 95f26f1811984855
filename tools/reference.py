"""What the code says of itself, as Markdown: the reference pages of the site.

MkDocs loads this as a hook, and calls `on_page_markdown` for each page.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import architecture

import step37_flickr8k
from step37_flickr8k import errors, localhub, settings
from step37_flickr8k.cli.parser import build_parser
from step37_flickr8k.settings import reference

SCHEMA = Path(__file__).parents[1] / "docs" / "report.schema.json"
_NAMES = {
    "string": "text",
    "password": "text, a secret",
    "path": "path",
    "boolean": "`true` or `false`",
    "object": "JSON object of secrets",
}
MARK = re.compile(r"<!-- generated: (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the marks of a page; MkDocs calls this before it reads the Markdown."""
    return MARK.sub(lambda mark: "\n".join(GENERATED[mark[1]]()), markdown)


# --- settings -------------------------------------------------------------------------------------


def settings_sections() -> Iterator[str]:
    """Give a section for each setting: what it means, its type and unit, default, flag and variable."""
    schemas = reference.json_schema()["properties"]
    for line in reference.settings_table().splitlines()[2:]:
        name, flag, variable, default, meaning = (
            cell.strip() for cell in line.strip("|").split("|")
        )
        yield f"## {name}\n"
        yield f"{meaning[0].upper()}{meaning[1:]}.\n" if meaning[0] != "`" else f"{meaning}.\n"
        yield f"- type: {_setting_type(schemas[name.strip('`')])}"
        yield f"- default: {default or 'none'}"
        yield f"- flag: {flag or 'none, since command lines are public'}"
        yield f"- environment: {variable}\n"


def _setting_type(schema: Mapping[str, Any]) -> str:
    kinds = schema.get("anyOf", [schema])
    kind, optional = kinds[0], {"type": "null"} in kinds
    if "enum" in kind:
        return "one of " + ", ".join(f"`{value}`" for value in kind["enum"])
    if kind["type"] == "number":
        return f"seconds, {_limits(kind)}; or with a unit, as in `90s`, `15m`, `1h`"
    if kind["type"] == "integer":
        return f"whole number, {_limits(kind)}{', or `all`' if optional else ''}"
    name = _NAMES[kind.get("format", kind["type"])]
    return f"{name}, or nothing" if optional else name


def _limits(kind: Mapping[str, Any]) -> str:
    # Pydantic's two ways to say it
    least, most = kind.get("minimum", kind.get("ge")), kind.get("maximum", kind.get("le"))
    return ("more than 0" if least is None else f"at least {least}") + (
        f", at most {most:,}" if most else ""
    )


# --- the command ----------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Give a section for each subcommand: what it does, its arguments, and the settings that it takes as flags."""
    parser = build_parser()
    (group,) = (
        action
        for action in parser._actions  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    )
    about = {choice.dest: choice.help for choice in group._choices_actions}  # noqa: SLF001
    fields = {flag.setting for flag in reference.flags()}
    for name, command in group.choices.items():
        yield f"## {name}\n\n{_sentence(about[name])}\n\n| argument | meaning |\n|---|---|"
        actions = [
            action
            for action in command._actions  # noqa: SLF001
            if action.help != argparse.SUPPRESS and action.dest != "help"
        ]
        yield from (_argument(command, action) for action in actions if action.dest not in fields)
        taken = [action.dest for action in actions if action.dest in fields]
        if fields <= {*taken}:
            yield "\nTakes every [setting](settings.md) that has a flag.\n"
        elif taken:
            yield (
                "\nTakes the settings "
                + ", ".join(f"[`{field}`](settings.md#{field})" for field in taken)
                + ".\n"
            )
        else:
            yield "\nTakes no settings.\n"


def _argument(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    named = (
        ", ".join(f"`{option}{value}`" for option in action.option_strings)
        or f"`{action.metavar or action.dest}`"
    )
    return f"| {named} | {command._get_formatter()._expand_help(action)} |"  # noqa: SLF001 - "%(default)s" filled


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


# --- the library ----------------------------------------------------------------------------------


def library() -> Iterator[str]:
    """Give mkdocstrings' mark for each public name, errors last: of the package, then of the local Hub."""
    for package in (step37_flickr8k, localhub):
        yield f"## {package.__name__}\n\n{(package.__doc__ or '').splitlines()[0]}\n"
        names = sorted(package.__all__, key=lambda name: name in vars(errors))
        yield from (f"::: {package.__name__}.{name}\n" for name in names)


# --- exit codes -----------------------------------------------------------------------------------


def exit_codes() -> Iterator[str]:
    """Give a section for each exit code: the errors that end with it, and what to do."""
    bases = (errors.Step37Error, errors.Terminated)
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, bases)
    ]
    for code in (
        0,
        *sorted({kind.exit_code for kind in kinds}, key=lambda code: (code == 1, code)),
        130,
    ):
        yield f"## {code}\n"
        yield from (
            f"- `{kind.__name__}`: {_first_line(kind)}{_remedy(kind)}"
            for kind in kinds
            if kind.exit_code == code
        )
        yield {0: "- no error: it is done.", 130: "- `KeyboardInterrupt`: Raised by Ctrl-C."}.get(
            code, ""
        ) + "\n"


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").splitlines()[0]


def _remedy(kind: type) -> str:
    """Give what to do, where a class says it itself: its own classes do the same."""
    told = vars(kind).get("what_to_do")
    return f" What to do: {told}." if told else ""


# --- the report -----------------------------------------------------------------------------------


def report_fields() -> Iterator[str]:
    """Give a list of the report's fields, and one for each kind of object in it."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    for part in (schema, *schema["$defs"].values()):
        yield f"## {part['title']}\n\n{part['description'].replace('``', '`')}\n"
        for name, field in part["properties"].items():
            always = "" if name in part["required"] else ", may be missing"
            meaning = (
                f": the setting [{name}](settings.md#{name})"
                if name in settings.WarmupSettings.model_fields
                else ""
            )
            meaning = f": {field['description']}" if "description" in field else meaning
            yield f"- `{name}` ({_json_type(field)}{always}){meaning}"
        yield ""


def _json_type(field: Mapping[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return " or ".join(map(_json_type, field["anyOf"]))
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if field["type"] == "array":
        return f"list of {_json_type(field['items'])}"
    if field["type"] == "object":
        return f"object, each value {_json_type(field['additionalProperties'])}"
    return str(field.get("format", field["type"]))


GENERATED = {
    "settings": settings_sections,
    "commands": commands,
    "library": library,
    "exit_codes": exit_codes,
    "report": report_fields,
    "layers": architecture.layer_sections,
    "packages": architecture.package_sections,
    "rules": architecture.rule_sections,
}
