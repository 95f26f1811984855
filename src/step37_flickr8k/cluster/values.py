"""What a call of any work sends to the other ranks: its result and arguments, and its name."""

import functools
import json
import math
from collections.abc import Callable
from typing import Any

__all__ = ["json_copy", "name_of"]

# Bytes of JSON: every rank fetches it from one store, which takes no value above 8 MB.
_MOST_BYTES = 1 << 20
# A message may have 100, and a value that contains itself has more.
_MOST_LEVELS = 90
_MOST_BITS = 1024
_PLAIN = "text, numbers, True, False, None, and lists and dicts of these"


def json_copy(value: object, name: str) -> Any:
    """Return what JSON makes of a value, as every rank receives it: a tuple becomes a list.

    Raises TypeError for what JSON has no form for, ValueError for a number that isn't finite or is
    too large, and for a value that is nested too deep or too long. Both name the part.
    """
    _check(value, name, _MOST_LEVELS)
    text = json.dumps(value)
    if len(text) > _MOST_BYTES:
        raise ValueError(
            f"{name} is {len(text):,} bytes of JSON, at most {_MOST_BYTES:,} are sent to every "
            "rank. Write it to a file that all ranks can read, and return the path."
        )
    return json.loads(text)


def name_of(work: Callable[..., object]) -> str:
    """Return the name of a function, the same on all ranks of a program.

    A partial has that of its function, an object with ``__call__`` that of its class. A lambda has
    the number of its line. The program's own module is left out: its name depends on how a rank was
    started.
    """
    while isinstance(work, functools.partial):
        work = work.func
    named: Any = work if isinstance(getattr(work, "__qualname__", None), str) else type(work)
    name: str = named.__qualname__
    if name.endswith("<lambda>"):
        name = f"{name} in line {named.__code__.co_firstlineno}"
    module = named.__module__
    return name if module in {None, "__main__", "__mp_main__"} else f"{module}.{name}"


def _check(value: object, name: str, levels: int) -> None:
    """Raise for the first part of a value that JSON can't carry."""
    if levels == 0:
        raise ValueError(f"{name:.200} is nested too deep, or contains itself")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which JSON has no form for")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"{name} is a number of more than {_MOST_BITS} bits")
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{name} has the key {key!r}, a {_type(key)}: keys must be text")
            _check(part, f"{name}[{key!r}]", levels - 1)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            _check(part, f"{name}[{number}]", levels - 1)
    elif not (value is None or isinstance(value, str | int | float)):
        raise TypeError(f"{name} is a {_type(value)}, which JSON has no form for: use {_PLAIN}")


def _type(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
