"""Tables for people, on a terminal or in a file."""

from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from step37_flickr8k.report.visible import visible

__all__ = ["table", "text_for"]

_WIDE = 160  # columns where nobody looks at a terminal: a file, a pipe


def text_for(stream: TextIO, parts: Iterable[Table | Text | str]) -> str:
    """Give what is to be printed to a stream; without a terminal as plain text."""
    colours, width = (True, None) if stream.isatty() else (None, _WIDE)
    out = StringIO()
    console = Console(file=out, force_terminal=colours, width=width, highlight=False)
    for part in parts:
        console.print(part)
    return out.getvalue().removesuffix("\n")


def table(*names: str, rows: Iterable[Sequence[str | Text]], header: bool = True) -> Table:
    """Give a table without lines; what others wrote is text, whatever it holds."""
    made = Table(box=None, show_header=header, header_style="bold")
    for number, name in enumerate(names):
        right = name.endswith(("seconds", " s", "kB", "tries", "times"))
        narrow = right or (number == 0 and not header)
        made.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=narrow)
    for row in rows:
        made.add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in row))
    return made
