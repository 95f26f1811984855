"""What the doctor found, on a terminal."""

from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.text import Text

from step37_flickr8k.diagnostics.doctor import Finding
from step37_flickr8k.report.tables import table, text_for

__all__ = ["findings_as_text"]

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "not checked": "dim"}


def findings_as_text(findings: Sequence[Finding], stream: TextIO) -> str:
    """Give a table for a stream: what is checked, how it stands, what was found, and below that what to do."""
    return text_for(stream, [table("", "", "", rows=_rows(findings), header=False)])


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[Text, str, str]]:
    for finding in findings:
        where = f"{finding.rank}: " if finding.rank else ""
        # of one width, since there may be two tables: what rank 0 finds, and then what all do
        state = Text(f"{finding.state:11}", style=_STYLES[finding.state])
        yield state, f"{finding.check:13}", where + finding.told
        if finding.remedy:
            yield Text(""), "", f"-> {finding.remedy}"
