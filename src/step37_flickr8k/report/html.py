"""A run's report as a page, with small plots."""

from typing import Any

from step37_flickr8k.report.model import Report
from step37_flickr8k.report.page import render
from step37_flickr8k.report.text import headline, slow_ranks

__all__ = ["report_page"]

_WIDTH, _HEIGHT = 800, 160  # of the plot, in its own units


def report_page(report: Report) -> str:
    """Give the page: one file that needs nothing else."""
    longest = max((said.lag or 0.0 for said in report.ranks.values()), default=0.0) or 1.0
    values: dict[str, Any] = {
        "plot": _plot(report),
        "ranks": slow_ranks(report),
        "longest_lag": longest,
    }
    return render("report.html", report=report, headline=headline(report), **values)


def _plot(report: Report) -> dict[str, Any] | None:
    """Give the throughput as the path of an area, and what its axes say; None where there is too little to draw."""
    rates = [*report.rates()]
    most = max((rate for _, rate in rates), default=0.0)
    if len(rates) < 2 or not most:
        return None
    first, last = report.timeline[0].seconds, rates[-1][0]
    steps = [f"M0 {_HEIGHT}"]
    for at, rate in rates:  # a step for each span: what is between two points is their mean
        steps.append(
            f"V{_HEIGHT - (_HEIGHT - 2) * rate / most:.1f} H{_WIDTH * (at - first) / (last - first):.1f}"
        )
    said = {"most": f"{most / 1e6:,.1f}", "first": f"{first:,.1f}", "last": f"{last:,.1f}"}
    return {"path": f"{' '.join(steps)} V{_HEIGHT} Z", "width": _WIDTH, "height": _HEIGHT, **said}
