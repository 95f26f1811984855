"""How messages write things that may be many."""

from collections.abc import Iterable
from itertools import islice

__all__ = ["listed"]


def listed(names: Iterable[str], limit: int = 8, *, more: str = "more") -> str:
    """Return the first ``limit`` names and how many follow: ``a, b and 3 more``.

    ``more`` replaces the last word, so that a message can say where the rest stands.
    """
    rest = iter(names)
    shown = ", ".join(islice(rest, limit))
    left = sum(1 for _ in rest)
    return f"{shown} and {left:,} {more}" if left else shown
