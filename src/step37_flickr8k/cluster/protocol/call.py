"""What a rank knows of a call when it begins, and what it has when the call has ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from step37_flickr8k.cluster.protocol.keys import Keys, Timeouts
from step37_flickr8k.cluster.protocol.messages import JsonObject, Outcome, RankReport, Verdict

__all__ = ["Ended", "Facts"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a rank knows of a call.

    ``run`` names the run, empty where the store is the run's own anyway. ``expects_all``: the
    leader waits for every rank's report; otherwise it waits for those that have arrived, and leaves
    word for those that come later. ``reconnects``: a lost connection can be made again. ``signs``:
    what ranks write is signed.
    """

    rank: int
    size: int
    host: str
    keys: Keys
    timeouts: Timeouts
    run: str = ""
    expects_all: bool = True
    reconnects: bool = False
    signs: bool = False


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a call ended for a rank: outcome, verdict, what it reported; on rank 0 all reports.

    ``found`` is the result of an earlier success, where no leader was found.
    """

    outcome: Outcome | None = None
    verdict: Verdict | None = None
    report: RankReport | None = None
    reports: Mapping[int, RankReport] = field(default_factory=dict)
    found: JsonObject | None = None
