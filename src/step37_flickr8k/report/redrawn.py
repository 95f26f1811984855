"""Lines that a terminal shows again and again, without those that it showed before."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from step37_flickr8k.visible import visible

__all__ = ["redrawn"]


@contextlib.contextmanager
def redrawn(stream: TextIO) -> Iterator[Callable[[Iterable[str]], None]]:
    """Yield a function that draws lines and removes those that it drew before.

    At the end they are gone. What is no terminal gets none.
    """
    with Live(auto_refresh=False, transient=True, console=Console(file=stream)) as live:
        yield lambda lines: live.update(Text("\n".join(map(visible, lines))), refresh=True)
