"""What a call of any work sends: results as JSON carries them, names that all ranks agree on."""

import enum
import functools
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from step37_flickr8k.cluster.values import json_copy, name_of


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: int


class Color(str, enum.Enum):
    """A text with names."""

    RED = "red"


class Build:
    """Work as an object."""

    def __call__(self) -> None: ...
    def method(self) -> None: ...


def itself() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("\ud800 é \0", "\ud800 é \0"),
        ((1, (2.5, True)), [1, [2.5, True]]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (Color.RED, "red"),
        (np.float64(0.5), 0.5),
        (2**1023, 2**1023),
    ],
    ids=repr,
)
def test_a_result_is_what_json_makes_of_it(value: object, expected: object) -> None:
    """A tuple becomes a list, and the subclass of a plain type that type, on every rank."""
    copy = json_copy(value, "the result")
    assert copy == expected
    assert type(copy) is type(expected)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"a": [0, Path("/x")]}, TypeError, r"the result\['a'\]\[1\] is a pathlib.PosixPath"),
        ([np.int64(1)], TypeError, r"the result\[0\] is a numpy.int64"),
        ({"a": {1: 2}}, TypeError, r"the result\['a'\] has the key 1, a int: keys must be text"),
        (b"x", TypeError, "the result is a bytes"),
        ({1}, TypeError, "the result is a set"),
        (iter([]), TypeError, "the result is a list_iterator"),
        ([float("nan")], ValueError, r"the result\[0\] is nan"),
        (-float("inf"), ValueError, "the result is -inf"),
        (2**1024, ValueError, "more than 1024 bits"),
        (itself(), ValueError, "nested too deep, or contains itself"),
        ("x" * (1 << 20), ValueError, "1,048,578 bytes of JSON, at most 1,048,576"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_carry_is_named(
    value: object, error: type[Exception], message: str
) -> None:
    """The error says which part it is, of which type, and what to return instead."""
    with pytest.raises(error, match=message):
        json_copy(value, "the result")


def test_work_has_the_name_of_its_function() -> None:
    """Partials, objects and methods, too; a lambda is named by its line, without its address."""
    here = "tests.unit.cluster.test_values."
    assert name_of(itself) == f"{here}itself"
    assert name_of(functools.partial(functools.partial(itself))) == f"{here}itself"
    assert name_of(Build()) == f"{here}Build"
    assert name_of(Build().method) == f"{here}Build.method"
    assert name_of(os.getcwd) == "posix.getcwd"
    line = name_of(lambda: None).removeprefix(f"{here}test_work_has_the_name_of_its_function")
    assert line.startswith(".<locals>.<lambda> in line ")


@pytest.mark.parametrize("module", ["__main__", "__mp_main__"])
def test_the_programs_own_module_is_left_out(module: str) -> None:
    """A rank that was started by multiprocessing has another name for it."""

    def work() -> None: ...

    work.__module__ = module
    assert name_of(work).startswith("test_the_programs_own_module_is_left_out.")
