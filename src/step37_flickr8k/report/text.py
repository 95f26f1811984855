"""A run's report on a terminal: tables with bars, and the throughput as a line of blocks."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rich.table import Table
from rich.text import Text

from step37_flickr8k.dataset.words import amount
from step37_flickr8k.report.model import RankReport, RunReport
from step37_flickr8k.report.progress import count_rows, counted
from step37_flickr8k.report.tables import table, text_for
from step37_flickr8k.visible import visible

__all__ = ["headline", "report_as_text", "slow_ranks", "summary"]

_BLOCKS = "▁▂▃▄▅▆▇█"
# Columns of the longest bar of a table, and of the line of blocks
_LONGEST_BAR = 30
_LONGEST_LINE = 60
# Errors that come from outside the process; their message says what ended it
_ENDED = {"Terminated", "KeyboardInterrupt"}
# Ranks that are listed
_RANKS = 16


def report_as_text(report: RunReport, stream: TextIO) -> str:
    """Return the report for a stream: in color on a terminal, otherwise as plain text."""
    first = Text(visible(headline(report)), style="bold green" if report.ok else "bold red")
    parts = _parts(report, blocks=(stream.encoding or "utf-8").lower().startswith("utf"))
    return text_for(stream, [first, *(each for part in parts for each in ("", part))])


def summary(report: RunReport, stream: TextIO) -> str:
    """Return the end of a run in five lines: where, what, how much, how long, and what next."""
    state = Text("ready", style="bold green") if report.ok else Text("failed", style="bold red")
    path = Path(report.cache_dir) / report.split
    if report.ok:
        where, what = f"{path}", ("rows", _rows(report))
        preview = shlex.join(["--cache-dir", report.cache_dir, "--split", report.split])
        after = f"start the training; step37-flickr8k preview {preview} shows the samples"
    else:
        where, what = f"{path}, exit code {report.exit_code}", ("where", report.where or "-")
        after = report.what_to_do or "-"
    rows: list[tuple[str | Text, str]] = [
        (state, where),
        what,
        ("fetched", _fetched(report)),
        ("took", f"{report.total_seconds:,.1f} s"),
        ("next", after),
    ]
    return text_for(stream, [table("", "", rows=rows, header=False)])


def headline(report: RunReport) -> str:
    """Return the run in one sentence."""
    after = f"after {report.total_seconds:,.1f} s"
    if not report.ok:
        how = f"{report.message} {after}" if report.error in _ENDED else f"failed {after}"
        return f"{how}, exit code {report.exit_code}"
    done = "the cache was warm" if report.warm else f"{_fetched(report)} fetched"
    return f"ready {after}: {_rows(report)}; {done}"


def _rows(report: RunReport) -> str:
    rows = report.rows or 0
    ready = rows - len(report.skipped) if report.ready_rows is None else report.ready_rows
    return count_rows(ready, rows - ready)


def _fetched(report: RunReport) -> str:
    if report.warm:
        return "nothing: the cache was warm"
    return f"{counted(report.files, 'file')}, {amount(report.bytes)}"


def slow_ranks(report: RunReport) -> list[tuple[str, RankReport]]:
    """Return the ranks: those that failed, those that never reported, then the slowest first."""
    order = {False: 0, None: 1, True: 2}
    return sorted(
        report.ranks.items(),
        key=lambda item: (order[item[1].ok], -(item[1].lag or 0.0), int(item[0])),
    )


def _parts(report: RunReport, *, blocks: bool) -> Iterator[Table | str]:
    yield _about(report)
    if report.seconds:
        yield _states(report)
    if throughput := _throughput(report, blocks=blocks):
        yield throughput
    if report.retries:
        yield _retries(report)
    if report.ranks:
        yield _ranks(report)
        if len(report.ranks) > _RANKS:
            more = len(report.ranks) - _RANKS
            yield f" and {more} more ranks; these are the ones that saw the cache last"
    if report.slowest:
        rows = (
            (each.file, _seconds(each.seconds), f"{each.bytes / 1e3:,.1f}", str(each.tries))
            for each in report.slowest
        )
        yield table("slowest files", "seconds", "kB", "tries", rows=rows)
    if report.skipped:
        yield table("left out", "because", rows=report.skipped.items())
    if report.misnamed:
        found = report.misnamed.items()
        kinds = ((kind, f"{each.images:,}", each.first) for kind, each in found)
        yield table("another kind than the name says", "images", "the first", rows=kinds)


def _about(report: RunReport) -> Table:
    commit = f" at commit {report.commit}" if report.commit else ""
    ranks = f"{counted(report.world_size, 'rank')}, rank 0 on {report.host}"
    rows = [
        ("dataset", f"{report.repo_id} {report.split}{commit}"),
        ("cache", report.cache_dir),
        (
            "run",
            f"{report.run or 'without an id'}, {ranks}, {report.started:%Y-%m-%d %H:%M:%S %Z}",
        ),
    ]
    if report.requests is not None:
        rows.append(("requests", f"{report.requests:,}"))
    if not report.ok:
        rows += [
            ("where", report.where or "-"),
            ("what", report.message or "-"),
            ("what to do", report.what_to_do or "-"),
            ("fetched", _fetched(report)),
        ]
    if report.cut:
        rows.append(("shortened", f"{', '.join(report.cut)}: rank 0's log has all of it"))
    return table("", "", rows=rows, header=False)


def _states(report: RunReport) -> Table:
    rows = (
        (state, _seconds(spent), _bar(spent, report.total_seconds))
        for state, spent in report.seconds.items()
        if spent >= 0.001
    )
    return table("state", "seconds", "", rows=rows)


def _throughput(report: RunReport, *, blocks: bool) -> str:
    rates = [rate for _, rate in report.rates()]
    if len(rates) < 2 or not max(rates):
        return ""
    step = -(-len(rates) // _LONGEST_LINE)
    means = [
        sum(rates[at : at + step]) / len(rates[at : at + step]) for at in range(0, len(rates), step)
    ]
    line = (
        "".join(_BLOCKS[round(rate / max(means) * (len(_BLOCKS) - 1))] for rate in means)
        if blocks
        else ""
    )
    return f" throughput  {line}  at most {amount(max(means))}/s"


def _retries(report: RunReport) -> Table:
    most = max(report.retries.values())
    counts = sorted(report.retries.items(), key=lambda item: -item[1])
    rows = ((cause, f"{count:,}", _bar(count, most)) for cause, count in counts)
    return table("retries because of", "times", "", rows=rows)


def _ranks(report: RunReport) -> Table:
    rows = (
        (rank, said.host or "-", _seconds(said.waited), _seconds(said.lag), _end_of(said))
        for rank, said in slow_ranks(report)[:_RANKS]
    )
    return table("rank", "host", "waited s", "lag s", "", rows=rows)


def _end_of(rank: RankReport) -> str:
    if rank.ok is None:
        return "never reported whether it can use the cache"
    return "ok" if rank.ok else str(rank.message)


def _bar(value: float, of: float) -> str:
    return "#" * round(_LONGEST_BAR * min(1.0, value / of)) if of else ""


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:,.2f}"
