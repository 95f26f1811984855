"""Tables for people, on a terminal or in a file."""

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["console_of", "table"]

_WIDE = 160  # columns where nobody looks at a terminal: a file, a pipe


def console_of(stream: TextIO) -> Console:
    """Give what prints to a stream; without a terminal in plain text."""
    return Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False)


def table(*names: str, rows: Iterable[Sequence[str | Text]], header: bool = True) -> Table:
    """Give a table without lines; what others wrote is text, whatever it holds."""
    made = Table(box=None, show_header=header, header_style="bold")
    for number, name in enumerate(names):
        right = name.endswith(("seconds", " s", "kB", "tries", "times"))
        narrow = right or (number == 0 and not header)
        made.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=narrow)
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made
