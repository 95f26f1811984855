"""The checks that ranks on different nodes make together: shared directory, locks, lag.

Rank 0 makes a small file next to the cache and locks it. The ranks on other nodes find it and
try the lock. There are two calls: in the first every rank asks for the file by name before it
exists, because a name that was missed once may stay missing.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from step37_flickr8k.cache.preflight import Probe, lock
from step37_flickr8k.cache.scan import nearest
from step37_flickr8k.cluster.call import difference
from step37_flickr8k.cluster.protocol.messages import JsonObject, RankReport
from step37_flickr8k.cluster.share import Group, share
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.diagnostics.finding import Finding, State
from step37_flickr8k.job.run import Run
from step37_flickr8k.report.progress import counted

__all__ = ["check_nodes", "not_checked"]

# Seconds for a file to appear. Linux's NFS client asks the server at each listing, sshfs after a
# timeout.
_VISIBLE_WITHIN = 30.0
_CHECKS = ("folder shared", "locks", "lag")
_TWO_NODES = (
    "run it as two ranks on two nodes: srun --nodes=2 --ntasks-per-node=1 step37-flickr8k doctor,"
    " on Kubernetes args: [doctor]"
)


@dataclass(frozen=True)
class _Made:
    """The file that rank 0 made.

    ``locked`` is whether rank 0 holds its lock, None if the file system refuses locks. ``problem``
    says why there is no file.
    """

    path: Path
    locked: bool | None = None
    problem: str = ""

    def as_json(self) -> JsonObject:
        return {"probe": str(self.path), "locked": self.locked, "problem": self.problem}

    @staticmethod
    def from_json(value: JsonObject) -> "_Made":
        return _Made(Path(value["probe"]), value["locked"], value["problem"])


@dataclass(frozen=True)
class _Sighting:
    """How a rank on another node sees the file.

    ``late``: opening it by name failed at first. ``listed``: listing its directory shows it.
    ``seen_after``: seconds until it could be opened, None for never. ``locked``: whether this rank
    got the lock that rank 0 holds, None if locks are refused.
    """

    late: bool
    listed: bool
    seen_after: float | None = None
    locked: bool | None = None
    # Rank and host, for messages
    rank: str = ""

    def as_json(self) -> JsonObject:
        return {
            "late": self.late,
            "listed": self.listed,
            "seen_after": self.seen_after,
            "locked": self.locked,
        }

    @staticmethod
    def from_json(rank: str, value: JsonObject) -> "_Sighting":
        return _Sighting(value["late"], value["listed"], value["seen_after"], value["locked"], rank)


def check_nodes(run: Run, group: Group, own: Sequence[Finding]) -> list[Finding]:
    """Return the findings of all ranks together on rank 0, and nothing on the other ranks.

    ``own`` is what this rank has found alone.
    """
    timeouts = run.task.timeouts
    directory = nearest(run.directory.root)
    probe = Probe(run.directory, directory)
    within = min(_VISIBLE_WITHIN, timeouts.visibility)

    def miss(begun: JsonObject) -> JsonObject:
        """Ask for the file before it exists; report this rank's own findings."""
        Path(begun["probe"]).exists()
        found = [*own, *_check_arguments(run.arguments(), begun["arguments"])]
        return {"findings": [finding.as_json() for finding in found]}

    def make(_: object) -> JsonObject:
        try:
            return _Made(probe.path, probe.make()).as_json()
        except OSError as error:
            return _Made(probe.path, problem=f"{directory}: {error.strerror}").as_json()

    def see(made: JsonObject) -> JsonObject:
        return _see(Path(made["probe"]), within).as_json() if group.rank else {}

    try:
        begun = {"probe": str(probe.path), "arguments": run.arguments()}
        first = share(group, lambda _: begun, confirm=miss, timeouts=timeouts)
        if group.rank == 0 and all(
            report.ok is None for rank, report in first.ranks.items() if rank != 0
        ):
            return [*_of_other_ranks(first.ranks), *not_checked("no other rank came")]
        second = share(group, make, confirm=see, timeouts=timeouts)
    finally:
        probe.close()
    if group.rank:
        return []
    return [
        *_of_other_ranks(first.ranks),
        *_compare(_Made.from_json(second.result), second.ranks, within),
    ]


def not_checked(reason: str) -> list[Finding]:
    """Return why these checks were not made; the last one says how to make all of them."""
    *others, last = _CHECKS
    unchecked = [Finding.not_checked(check, reason) for check in others]
    return [*unchecked, Finding.not_checked(last, reason, _TWO_NODES)]


def _check_arguments(own: JsonObject, rank_zeros: JsonObject) -> list[Finding]:
    message = difference(own, rank_zeros)
    remedy = "pass the same to every rank; otherwise warmup refuses them"
    return [Finding.problem("arguments", message, remedy)] if message else []


def _see(path: Path, within: float) -> _Sighting:
    """Find rank 0's file as warmup finds files, by listing its directory first; try its lock."""
    start = time.monotonic()
    late, listed = not path.exists(), False
    while True:
        try:
            listed |= path.name in os.listdir(path.parent)
            with path.open("rb") as file:
                spent = round(time.monotonic() - start, 3)
                return _Sighting(late, listed, spent, lock(file))
        # Not there, or not yet
        except OSError:
            if time.monotonic() - start > within:
                return _Sighting(late, listed)
        time.sleep(0.1)


def _of_other_ranks(ranks: Mapping[int, RankReport]) -> list[Finding]:
    """Return which ranks never came, and what the other ranks found that isn't well."""
    silent = [rank for rank, report in ranks.items() if report.ok is None]
    found = [
        Finding.problem("ranks", f"rank {rank} never came", "read its own log, check its node")
        for rank in silent[:8]
    ]
    for rank, report in ranks.items():
        if rank == 0:
            continue
        theirs = [Finding.from_json(value) for value in report.found.get("findings", [])]
        name = f"rank {rank} on {report.host}"
        found += [finding.on(name) for finding in theirs if finding.state is not State.OK]
    return found


def _compare(made: _Made, ranks: Mapping[int, RankReport], within: float) -> list[Finding]:
    if made.problem:
        reason = f"rank 0 can't make a file: {made.problem}"
        return [Finding.not_checked(check, reason) for check in _CHECKS]
    home = _node_of(ranks[0].host)
    away = [
        _Sighting.from_json(f"rank {rank} on {report.host}", report.found)
        for rank, report in ranks.items()
        if report.ok and _node_of(report.host) != home
    ]
    if not away:
        return not_checked(f"all ranks that answered are on {home}: needs two nodes")
    return [
        _check_shared(made.path.parent, away),
        _check_locks(made, away),
        _check_lag(away, within),
    ]


def _node_of(host: str | None) -> str:
    """Return the node of a host; a pod's host is ``node/pod``."""
    return (host or "").partition("/")[0]


def _which(away: Sequence[_Sighting], matches: Callable[[_Sighting], bool]) -> str:
    return listed(sighting.rank for sighting in away if matches(sighting))


def _check_shared(directory: Path, away: Sequence[_Sighting]) -> Finding:
    if blind := _which(away, lambda sighting: not sighting.listed):
        return Finding.problem(
            "folder shared",
            f"{blind} doesn't see what rank 0 writes to {directory}",
            "choose a cache_dir on a file system that all nodes share, at the same path, or"
            " cache_scope=node",
        )
    count = counted(len(away), "rank")
    message = f"what rank 0 writes to {directory} is seen on other nodes, by {count}"
    return Finding.ok("folder shared", message)


def _check_locks(made: _Made, away: Sequence[_Sighting]) -> Finding:
    remedy = (
        "step37-flickr8k doesn't depend on locks; for other programs (datasets, huggingface_hub)"
        " let one rank write, or mount with -o flock"
    )
    if made.locked is None:
        return Finding.warning("locks", "flock is refused", remedy)
    seeing = [sighting for sighting in away if sighting.seen_after is not None]
    if not seeing:
        return Finding.not_checked("locks", "no rank on another node could open the file")
    if refused := _which(seeing, lambda sighting: sighting.locked is None):
        return Finding.warning("locks", f"flock is refused on {refused}", remedy)
    if wrong := _which(seeing, lambda sighting: bool(sighting.locked)):
        message = f"flock lies: {wrong} got the lock that rank 0 holds"
        return Finding.warning("locks", message, remedy)
    return Finding.ok("locks", "flock holds between nodes")


def _check_lag(away: Sequence[_Sighting], within: float) -> Finding:
    listing = [sighting for sighting in away if sighting.listed]
    if not listing:
        return Finding.not_checked("lag", "the directory isn't shared")
    if missing := _which(listing, lambda sighting: sighting.seen_after is None):
        return Finding.warning(
            "lag",
            f"{missing} lists the file, but can't open it within {within:g} s",
            "mount with shorter timeouts for names and attributes, or raise visibility_timeout"
            " above them",
        )
    longest = max(sighting.seen_after or 0.0 for sighting in listing)
    message = f"seen within {longest:.2f} s of being written, by listing the directory"
    if late := _which(listing, lambda sighting: sighting.late):
        return Finding.ok(
            "lag",
            f"{message}; by name alone not at once by {late}, which had asked too early",
            "list a directory before you open a file in it; step37-flickr8k never waits by name",
        )
    return Finding.ok("lag", message)
