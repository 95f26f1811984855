"""How messages write things that may be many."""

from collections.abc import Iterable
from itertools import islice

__all__ = ["amount", "amount_of", "listed"]

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def amount(size: float) -> str:
    """Return bytes as ``12.3 kB``, ``8.4 MB`` or ``1.2 GB``."""
    unit, scale = _unit(size)
    return f"{size / scale:,.1f} {unit}"


def amount_of(size: float, total: float) -> str:
    """Return bytes and what they are a part of, in one unit: ``8.4 of 164.2 MB``."""
    unit, scale = _unit(total)
    return f"{size / scale:,.1f} of {total / scale:,.1f} {unit}"


def _unit(size: float) -> tuple[str, float]:
    return next((each for each in _UNITS if size >= each[1]), _UNITS[-1])


def listed(names: Iterable[str], limit: int = 8, *, more: str = "more") -> str:
    """Return the first ``limit`` names and how many follow: ``a, b and 3 more``.

    ``more`` replaces the last word, so that a message can say where the rest stands.
    """
    rest = iter(names)
    shown = ", ".join(islice(rest, limit))
    left = sum(1 for _ in rest)
    return f"{shown} and {left:,} {more}" if left else shown
