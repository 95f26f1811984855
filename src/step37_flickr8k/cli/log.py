"""Log lines, as text and as JSON, and how an error is reported."""

import contextlib
import json
import logging
import sys
import traceback
from typing import Any

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.errors import Step37Error, exit_code_of, message_of
from step37_flickr8k.report.display import CLEAR, shows_bar
from step37_flickr8k.settings import WarmupSettings
from step37_flickr8k.visible import VISIBLE, visible_lines

__all__ = ["log", "report_error", "reset_logging", "set_up_logging"]

log = logging.getLogger("step37_flickr8k")

_REPORT_IT = "run it again with --log-level debug and file an issue with that output"


def set_up_logging(settings: WarmupSettings, world: World | None = None) -> None:
    """Send the package's log to stderr, in the format and from the level that the settings name.

    ``world`` is that of a command which runs as ranks: its lines say when and where.
    """
    handler = logging.StreamHandler(sys.stderr)
    before = CLEAR if shows_bar(settings) else ""
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter(world or World.from_environment({})))
    else:
        handler.setFormatter(TextFormatter(world, before) if world else PlainFormatter(before))
    log.handlers[:] = [handler]
    log.addFilter(VISIBLE)
    log.setLevel(settings.log_level.upper())


def reset_logging() -> None:
    """Undo `set_up_logging`."""
    log.handlers.clear()


def report_error(error: BaseException) -> None:
    """Report the error that ends the command in one line, through the log once that is set up.

    The line has the error's words. JSON names its class, too, and so does the traceback.
    """
    name, message = type(error).__name__, message_of(error)
    is_internal = exit_code_of(error) == 1
    if is_internal:
        # An error of Python hardly makes sense without its class
        words = message if isinstance(error, Step37Error) else f"{name}: {message}"
        message = f"internal error: {words}; {_REPORT_IT}"
    if log.handlers:
        log.error("%s", message, extra={"error": name})
        log.debug("the traceback:", exc_info=error)
        return
    # Before the settings are read there is no log level that could ask for the traceback
    with contextlib.suppress(OSError):
        if is_internal:
            traceback.print_exception(error)
        print(f"error: {visible_lines(message)}", file=sys.stderr)


class PlainFormatter(logging.Formatter):
    """Formats a record for whoever has typed the command: ``error: message``."""

    def __init__(self, before: str = "", form: str = "%(kind)s%(message)s") -> None:
        """Start each line with ``before``, which clears the progress bar on a terminal."""
        super().__init__(f"{before}{form}", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; what is only said for information is a line without its level."""
        is_information = record.levelno == logging.INFO
        record.kind = "" if is_information else f"{record.levelname.lower()}: "
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return a traceback, whose last line is the error's text."""
        return visible_lines(super().formatException(ei))


class TextFormatter(PlainFormatter):
    """Formats a record of a job as one line for people: time, rank, level, message."""

    def __init__(self, world: World, before: str = "") -> None:
        """Start each line with ``before``, which clears the progress bar on a terminal."""
        super().__init__(before, f"%(asctime)s {world.label} %(levelname)s %(message)s")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, with host, node, rank and world size."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        fields = {
            "time": record.created,
            "level": record.levelname.lower(),
            "host": self._world.host,
            "node": self._world.node_rank,
            "rank": self._world.rank,
            "world_size": self._world.size,
            "message": record.getMessage(),
        }
        if error := getattr(record, "error", ""):
            fields["error"] = error
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)
