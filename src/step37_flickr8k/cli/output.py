"""What the command prints to stdout, and the report file."""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from typing import Any

from step37_flickr8k.cache.outputs import write_output
from step37_flickr8k.cli.log import log
from step37_flickr8k.errors import TransientError
from step37_flickr8k.settings import WarmupSettings
from step37_flickr8k.visible import visible

__all__ = [
    "prepare_streams",
    "print_json",
    "print_lines",
    "print_styled",
    "shortened",
    "write_report",
]

_STDOUT, _STDERR = 1, 2
# The name that Kubernetes uses for the file that becomes a pod's termination message
_TERMINATION_MESSAGE = "termination-log"
# Bytes of a termination message that Kubernetes keeps. It keeps the last ones, so a longer report
# would become half a JSON object.
_TERMINATION_MESSAGE_SIZE = 4096


def prepare_streams() -> None:
    """Let stdout and stderr take whatever is printed, before anything else is opened.

    What their encoding doesn't know is written with escapes: a path may hold any characters, and
    bytes that are none. A stream that the shell has closed (``>&-``) becomes ``/dev/null``;
    otherwise the next file to be opened would get its number, and what libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(_STDOUT, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_lines(*lines: str) -> None:
    """Print lines to stdout, made visible; raises `TransientError` as `print_styled` does."""
    print_styled("\n".join(visible(line) for line in lines))


def print_styled(text: str) -> None:
    """Print to stdout, as it is, what was rendered with colors, and flush.

    Raises `TransientError` if stdout can't be written. A closed pipe is no error: its reader has
    read all that it wanted.
    """
    try:
        with contextlib.suppress(BrokenPipeError):
            # One write: with another one for its end, a line of another rank could stand between
            print(f"{text}\n", end="", flush=True)
    except OSError as error:
        raise TransientError(
            f"stdout can't be written: {error.strerror}; check where it is redirected to"
        ) from error


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    print_styled(_json(value, indent=2))


def _json(value: object, indent: int | None = None) -> str:
    """Return a value as JSON that holds no control character, DEL neither."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def write_report(report: Mapping[str, Any], settings: WarmupSettings, words: str = "") -> None:
    """Print the report, or ``words`` in its place, and write it to the file of the settings.

    Failures are logged, not raised. They don't change whether the cache is warm, and must not hide
    the error that ended the run.
    """
    file, text = settings.report, _json(report, indent=2)
    try:
        # JSON logs and the report may share a stream, as in a pod: then the report is one line, too
        print_styled(words or (_json(report) if settings.log_format == "json" else text))
    except TransientError as error:
        log.error("the report: %s", error)
    if file is None:
        return
    is_message = file.name == _TERMINATION_MESSAGE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_output(file, (shortened(report) if is_message else text + "\n").encode())
    except OSError as error:
        log.error("the report can't be written to %s: %s", file, error.strerror)


def shortened(report: Mapping[str, Any]) -> str:
    """Return the report as JSON of at most 4,096 bytes, which Kubernetes keeps whole.

    The longest fields are shortened until it fits; ``cut`` names them.
    """
    parts = dict(report)
    while len(text := json.dumps(parts)) > _TERMINATION_MESSAGE_SIZE:
        name = max(parts, key=lambda name: len(json.dumps(parts[name])))
        less = _thinned(parts[name]) if name == "timeline" else _halved(parts[name])
        parts |= {name: less, "cut": sorted({*parts.get("cut", []), name})}
    return text


def _thinned(points: list[Any]) -> list[Any]:
    """Return every other point and the last one, which still span the whole run."""
    return [*points[:-1:2], points[-1]]


def _halved(value: Any) -> Any:
    """Return half of a text, list or mapping; of ranks first those that did not report success."""
    if isinstance(value, str | list):
        return value[: len(value) // 2]
    failed = {k: v for k, v in value.items() if not (isinstance(v, dict) and v.get("ok"))}
    return failed if len(failed) < len(value) else dict([*value.items()][: len(value) // 2])
