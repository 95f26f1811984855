"""How a call ends for all ranks, decided from the work's error and the reports of the ranks."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from step37_flickr8k.cluster.protocol.messages import RankReport, Verdict
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.errors import CallMismatch, ErrorReport

__all__ = ["decide_verdict"]

log = logging.getLogger("step37_flickr8k")

# Reasons that the message of a verdict names
_MOST_REASONS = 8


def decide_verdict(
    failure: ErrorReport | None, reports: Mapping[int, RankReport], ranks: Collection[int]
) -> Verdict:
    """Return how the call ends for all ranks; ``ranks`` that never reported are a warning.

    Different arguments matter more than the failure of the work: it may be their consequence.
    """
    failed = {rank: report.failure for rank, report in reports.items() if report.failure}
    mismatched = {rank: why for rank, why in failed.items() if why.error == CallMismatch.__name__}
    if mismatched or (failed and failure is None):
        return _joined(mismatched or failed, reports)
    if failure is not None:
        return Verdict(failure=failure)
    if silent := sorted(set(ranks) - set(reports)):
        log.warning(
            "rank %s never reported whether it can use the outcome", listed(map(str, silent))
        )
    return Verdict()


def _joined(failed: Mapping[int, ErrorReport], reports: Mapping[int, RankReport]) -> Verdict:
    """Return one failure of several ranks: the lowest rank's class, and the reasons of all."""
    ranks_by_message: dict[str, list[str]] = {}
    for rank, failure in sorted(failed.items()):
        name = f"rank {rank} on {reports[rank].host}"
        ranks_by_message.setdefault(failure.message, []).append(name)
    reasons = [f"{listed(names)}: {message}" for message, names in ranks_by_message.items()]
    first = min(failed)
    return Verdict(
        failure=replace(failed[first], message="; ".join(reasons[:_MOST_REASONS])),
        host=reports[first].host,
        waited=reports[first].waited,
        lag=reports[first].lag,
    )
