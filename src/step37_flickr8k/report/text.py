"""A run's report on a terminal: tables, a few bars, the throughput as a line of blocks."""

from collections.abc import Iterator
from typing import TextIO

from rich.table import Table
from rich.text import Text

from step37_flickr8k.report.model import RankReport, Report
from step37_flickr8k.report.progress import count_rows, counted
from step37_flickr8k.report.tables import table, text_for
from step37_flickr8k.report.visible import visible

__all__ = ["headline", "report_as_text", "slow_ranks"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_LONGEST_BAR = 30
_ENDED = {"Terminated", "KeyboardInterrupt"}  # from outside: their message says how
_RANKS = 16  # that are shown one by one


def report_as_text(report: Report, stream: TextIO) -> str:
    """Give it for a stream; without a terminal in plain text."""
    first = Text(visible(headline(report)), style="bold green" if report.ok else "bold red")
    parts = _parts(report, blocks=(stream.encoding or "utf-8").lower().startswith("utf"))
    return text_for(stream, [first, *(each for part in parts for each in ("", part))])


def _parts(report: Report, *, blocks: bool) -> Iterator[Table | str]:
    yield _about(report)
    if report.seconds:
        total = report.total_seconds
        bars = (
            (state, _s(spent), _bar(spent, total))
            for state, spent in report.seconds.items()
            if spent >= 0.001
        )
        yield table("state", "seconds", "", rows=bars)
    if said := _throughput(report, blocks=blocks):
        yield said
    if report.retries:
        most = max(report.retries.values())
        counts = sorted(report.retries.items(), key=lambda item: -item[1])
        yield table(
            "tried again because of",
            "times",
            "",
            rows=((c, f"{n:,}", _bar(n, most)) for c, n in counts),
        )
    if report.ranks:
        ranks = slow_ranks(report)[:_RANKS]
        rows = (
            (rank, said.host or "-", _s(said.waited), _s(said.lag), _word(said))
            for rank, said in ranks
        )
        yield table("rank", "host", "waited s", "lag s", "", rows=rows)
        if len(report.ranks) > _RANKS:
            yield f" and {len(report.ranks) - _RANKS} more ranks; these are the ones that saw the cache last"
    if report.slowest:
        slow = (
            (each.file, _s(each.seconds), f"{each.bytes / 1e3:,.1f}", str(each.tries))
            for each in report.slowest
        )
        yield table("slowest files", "seconds", "kB", "tries", rows=slow)
    if report.skipped:
        yield table("left out", "because", rows=report.skipped.items())


def headline(report: Report) -> str:
    """Give the run in a sentence."""
    if not report.ok:
        after = f"after {report.total_seconds:,.1f} s"
        how = (
            f"{report.message} {after}"
            if report.error in _ENDED
            else f"failed {after} with {report.error}"
        )
        return f"{how}, exit code {report.exit_code}"
    did = (
        "the cache was warm"
        if report.warm
        else f"{report.files:,} files, {report.bytes / 1e6:,.1f} MB fetched"
    )
    rows = report.rows or 0
    ready = rows - len(report.skipped) if report.ready_rows is None else report.ready_rows
    return f"ready after {report.total_seconds:,.1f} s: {count_rows(ready, rows - ready)}; {did}"


def slow_ranks(report: Report) -> list[tuple[str, RankReport]]:
    """Give the ranks, those that failed first, then those that said nothing, then by how late they saw the cache."""
    order = {False: 0, None: 1, True: 2}
    return sorted(
        report.ranks.items(),
        key=lambda item: (order[item[1].ok], -(item[1].lag or 0.0), int(item[0])),
    )


def _about(report: Report) -> Table:
    run = (
        f"{report.run or 'no name'}, {counted(report.world_size, 'rank')}, rank 0 on {report.host}"
    )
    rows = [
        (
            "dataset",
            f"{report.repo_id} {report.split}"
            + (f" at commit {report.commit}" if report.commit else ""),
        ),
        ("cache", report.cache_dir),
        ("run", f"{run}, {report.started:%Y-%m-%d %H:%M:%S %Z}"),
    ]
    if report.requests is not None:
        rows.append(("requests", f"{report.requests:,}"))
    if not report.ok:
        rows += [
            ("where", report.where or "-"),
            ("what", report.message or "-"),
            ("what to do", report.what_to_do or "-"),
        ]
        rows.append(("came so far", f"{report.files:,} files, {report.bytes / 1e6:,.1f} MB"))
    if report.cut:
        rows.append(("shortened", f"{', '.join(report.cut)}: rank 0's log has all of it"))
    return table("", "", rows=rows, header=False)


def _throughput(report: Report, *, blocks: bool) -> str:
    rates = [rate for _, rate in report.rates()]
    if len(rates) < 2 or not max(rates):
        return ""
    step = -(-len(rates) // 60)
    means = [
        sum(rates[at : at + step]) / len(rates[at : at + step]) for at in range(0, len(rates), step)
    ]
    line = (
        "".join(_BLOCKS[round(rate / max(means) * (len(_BLOCKS) - 1))] for rate in means)
        if blocks
        else ""
    )
    return f" throughput  {line}  at most {max(means) / 1e6:,.1f} MB/s"


def _bar(value: float, of: float) -> str:
    return "#" * round(_LONGEST_BAR * min(1.0, value / of)) if of else ""


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:,.2f}"


def _word(said: RankReport) -> str:
    return {
        True: "ok",
        False: f"{said.error}: {said.message}",
        None: "never said whether it can use the cache",
    }[said.ok]
