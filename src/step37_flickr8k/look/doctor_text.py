"""What the doctor found, on a terminal."""

from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.text import Text

from step37_flickr8k.look.doctor import Finding
from step37_flickr8k.look.tables import console_of, table

__all__ = ["print_findings"]

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "not checked": "dim"}


def print_findings(findings: Sequence[Finding], stream: TextIO) -> None:
    """Print a table: what is checked, how it stands, what was found, and below that what to do."""
    console_of(stream).print(table("", "", "", rows=_rows(findings), header=False))


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[Text, str, str]]:
    for finding in findings:
        where = f"{finding.rank}: " if finding.rank else ""
        yield Text(finding.state, style=_STYLES[finding.state]), finding.check, where + finding.told
        if finding.remedy:
            yield Text(""), "", f"-> {finding.remedy}"
