"""A metadata table of JSON Lines: an object on each line, with a text in each of both columns."""

import json
import re
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from step37_flickr8k.dataset.tables import NAME_COLUMN, Cells, Lines, Wanted
from step37_flickr8k.errors import InvalidMetadata

__all__ = ["read_jsonl"]

_COLUMNS = 1000  # names that are remembered for a message
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list"}


class _Object(list[tuple[str, object]]):
    """The pairs of a JSON object, in order, also where a name is there twice."""


def read_jsonl(stream: BinaryIO, wanted: Wanted) -> Iterator[Cells]:
    """Yield the cells of each row; null, or a key that isn't there, is no value."""
    key = wanted.caption_key.strip()
    columns: dict[str, None] = {}
    for number, line in enumerate(Lines(stream, wanted.table), 1):
        if not line.strip():
            continue
        where = f"{wanted.table}, line {number}"
        row = _parsed(line, where)
        if not {NAME_COLUMN, key} <= columns.keys() and len(columns) < _COLUMNS:
            columns |= dict.fromkeys(name for name, _ in row)
        yield Cells(number, _text(row, NAME_COLUMN, where), _text(row, key, where))
    # Nobody knows before the end that no row has the column
    wanted.find([*columns])


def _parsed(line: str, where: str) -> _Object:
    """Return the object on a line."""
    try:
        value = json.loads(line, object_pairs_hook=_Object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(": line ")[0]
        raise InvalidMetadata(
            f"{where} is no JSON ({reason}): write one object on each line"
        ) from error
    if not isinstance(value, _Object):
        raise InvalidMetadata(
            f"{where} is {_KINDS.get(type(value), 'a text or null')}, and no object:"
            " write one object on each line"
        )
    return _Object((name.strip(), each) for name, each in value)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _text(row: _Object, column: str, where: str) -> str:
    """Return the text in a column, empty without a value."""
    found = [value for name, value in row if name == column]
    if len(found) > 1:
        raise InvalidMetadata(f"{where} has the key {column} {len(found)} times: which is meant?")
    value = found[0] if found else None
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidMetadata(
            f"{where}: {column} is {_KINDS.get(type(value), 'an object')}: write one text"
        )
    if _SURROGATE.search(value):
        raise InvalidMetadata(f"{where}: {column} has half a character, which no text has")
    return value
