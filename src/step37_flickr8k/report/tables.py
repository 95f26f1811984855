"""Tables for people, on a terminal or in a file."""

from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from step37_flickr8k.visible import visible

__all__ = ["table", "text_for"]

# Columns of what goes to a file or a pipe
_WIDTH = 160


def text_for(stream: TextIO, parts: Iterable[Table | Text | str]) -> str:
    """Return what is to be printed to a stream: in color on a terminal, otherwise plain text."""
    color, width = (True, None) if stream.isatty() else (None, _WIDTH)
    out = StringIO()
    console = Console(file=out, force_terminal=color, width=width, highlight=False)
    for part in parts:
        console.print(part)
    text = out.getvalue().removesuffix("\n")
    # On a terminal the blanks that fill a column are nothing one sees
    return text if color else "\n".join(line.rstrip() for line in text.split("\n"))


def table(*names: str, rows: Iterable[Sequence[str | Text]], header: bool = True) -> Table:
    """Return a table without lines. Cells are shown as they are, never as markup."""
    made = Table(box=None, show_header=header, header_style="bold")
    for number, name in enumerate(names):
        right = name.endswith(("seconds", " s", "kB", "tries", "times"))
        narrow = right or (number == 0 and not header)
        made.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=narrow)
    for row in rows:
        made.add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in row))
    return made
