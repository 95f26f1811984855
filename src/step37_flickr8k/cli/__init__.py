"""The command line: the only package that prints, sets up logging and turns errors into exit codes.

- One module per command, each with a `run(parsed)` that returns the exit code: `warmup` (and
  `warmup_job`), `plan`, `verify`, `status`, `preview`, `doctor`, `settings`, `report`, `hub`,
  `completion`.
- `commands`: what each command is for, and its own arguments.
- `parser`: the command line as a whole, and how it becomes settings.
- `output`: what is printed to stdout, the report file, a pod's termination message.
- `named_files`: the pages and images that the user names.
- `log`: log lines as text and as JSON; how an error is reported.

To add a command, describe it in `commands` and add a module of its name.
"""

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from step37_flickr8k.cli.log import report_error, reset_logging
from step37_flickr8k.cli.output import prepare_streams
from step37_flickr8k.cli.parser import parse_arguments
from step37_flickr8k.download.open_files import raise_limit
from step37_flickr8k.errors import Terminated, exit_code_of
from step37_flickr8k.limited.named import limits_named
from step37_flickr8k.signals import raise_signals

__all__ = ["main", "run"]


def main() -> NoReturn:
    """Run the command and end the process with its exit code.

    The process ends without the interpreter's own shutdown. A thread that waits in torch's store
    would abort that and change the exit code.
    """
    # A lost store is reported in one line of the log, not in C++ stack frames
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    raise_signals()
    raise_limit()
    prepare_streams()
    try:
        code = run()
    except SystemExit as end:  # of --help, --version, and a wrong command line
        code = int(end.code or 0)
    # An output that fails was reported when it was printed, or its reader has gone
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    ``arguments`` are those of the process unless given.
    """
    parsed = parse_arguments(arguments)
    try:
        with limits_named(), _printing(parsed):
            return _dispatch(parsed)
    # Broad, so that an unforeseen error, too, is one line and an exit code
    except (Exception, KeyboardInterrupt, Terminated) as error:  # noqa: BLE001
        report_error(error)
        return exit_code_of(error)
    finally:
        reset_logging()


@contextlib.contextmanager
def _printing(parsed: argparse.Namespace) -> Iterator[None]:
    """Drop what a quiet command would print, unless that is the JSON that was asked for."""
    if parsed.json or not parsed.quiet:
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _dispatch(parsed: argparse.Namespace) -> int:
    """Import the module of the chosen command alone, and run it."""
    command = importlib.import_module(f"{__name__}.{parsed.command}")
    code: int = command.run(parsed)
    return code
