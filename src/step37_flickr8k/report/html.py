"""A run's report as a page, with small plots."""

from dataclasses import dataclass

from step37_flickr8k.report.model import RunReport
from step37_flickr8k.report.page import render
from step37_flickr8k.report.text import headline, slow_ranks

__all__ = ["report_page"]

# Size of the plot in units of its own
_WIDTH, _HEIGHT = 800, 160


@dataclass(frozen=True)
class _Plot:
    """The throughput as an SVG path, and the labels of its axes in MB/s and seconds."""

    path: str
    most: str
    first: str
    last: str
    width: int = _WIDTH
    height: int = _HEIGHT


def report_page(report: RunReport) -> str:
    """Return the page: one file that needs nothing else."""
    longest = max((rank.lag or 0.0 for rank in report.ranks.values()), default=0.0) or 1.0
    return render(
        "report.html",
        report=report,
        headline=headline(report),
        plot=_plot(report),
        ranks=slow_ranks(report),
        longest_lag=longest,
    )


def _plot(report: RunReport) -> _Plot | None:
    """Return the throughput as the outline of an area; None if there are too few points."""
    rates = [*report.rates()]
    most = max((rate for _, rate in rates), default=0.0)
    if len(rates) < 2 or not most:
        return None
    first, last = report.timeline[0].seconds, rates[-1][0]
    # Steps, because a rate is the mean between two points of the timeline
    steps = [f"M0 {_HEIGHT}"]
    for at, rate in rates:
        height = _HEIGHT - (_HEIGHT - 2) * rate / most
        steps.append(f"V{height:.1f} H{_WIDTH * (at - first) / (last - first):.1f}")
    return _Plot(
        path=f"{' '.join(steps)} V{_HEIGHT} Z",
        most=f"{most / 1e6:,.1f}",
        first=f"{first:,.1f}",
        last=f"{last:,.1f}",
    )
