"""The doctor's findings on a terminal."""

from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.text import Text

from step37_flickr8k.diagnostics.finding import Finding, State
from step37_flickr8k.report.tables import table, text_for

__all__ = ["findings_as_text"]

_STYLES = {
    State.OK: "green",
    State.WARNING: "yellow",
    State.PROBLEM: "bold red",
    State.NOT_CHECKED: "dim",
}


def findings_as_text(findings: Sequence[Finding], stream: TextIO) -> str:
    """Return a table of state, check and message, each with the remedy below it."""
    return text_for(stream, [table("", "", "", rows=_rows(findings), header=False)])


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[Text, str, str]]:
    for finding in findings:
        rank = f"{finding.rank}: " if finding.rank else ""
        # Fixed widths, because there may be two tables: rank 0's findings, and those of all ranks
        state = Text(f"{finding.state.value:11}", style=_STYLES[finding.state])
        yield state, f"{finding.check:13}", rank + finding.message
        if finding.remedy:
            yield Text(""), "", f"-> {finding.remedy}"
