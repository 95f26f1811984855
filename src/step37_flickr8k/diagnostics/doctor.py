"""What usually goes wrong on a cluster, looked for before a job does: each check gives what it found, and a remedy.

Rank 0 asks the Hub, as the downloader would; each rank looks at its own settings. Ranks on other
nodes look for a small file that rank 0 makes beside the cache, and try the lock that rank 0 holds
on it.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.filesystem import local_file_system
from step37_flickr8k.cache.preflight import Probe, check_space, lock, try_out
from step37_flickr8k.cache.scan import nearest
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.messages import JsonObject, RankReport
from step37_flickr8k.cluster.protocol import difference
from step37_flickr8k.cluster.share import CallResult, Group, share
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.diagnostics.memory import memory_limit
from step37_flickr8k.download.files import memory_in_flight
from step37_flickr8k.errors import (
    AccessDenied,
    ConfigurationError,
    FolderFull,
    RepositoryNotFound,
    Step37Error,
    TransientError,
)
from step37_flickr8k.hub.api import Hub
from step37_flickr8k.hub.proxies import proxy_before
from step37_flickr8k.hub.rate_limit import RateLimit
from step37_flickr8k.hub.refusals import Refused
from step37_flickr8k.job.plan import make_plan
from step37_flickr8k.job.results import Plan
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.report.progress import counted
from step37_flickr8k.settings import WarmupSettings

__all__ = ["Finding", "examine"]

log = logging.getLogger("step37_flickr8k")

Value = dict[str, Any]
_OK, _WARNING, _PROBLEM, _SKIPPED = "ok", "warning", "problem", "not checked"
_TRIES = 2  # of each request: a doctor is asked by somebody who waits
_SKEW = 60.0  # s that a clock may differ: certificates and signed addresses have dates
# S for a file to appear; Linux's NFS client asks anew at each listing, sshfs after its time-out
_SEEN_WITHIN = 30.0
_UNKNOWN_SIZE = 1 << 20  # bytes of an image, where the plan can't be known
_OWN_MEMORY = 200 << 20  # bytes; measured: 72 MB with its workers, 110 more with pyarrow
_TORCH_MEMORY = 250 << 20  # bytes; torch.distributed
_TWO_NODES = ("folder shared", "locks", "lag")
_HOW = "run it as two ranks on two nodes: srun --nodes=2 --ntasks-per-node=1 step37-flickr8k doctor, on Kubernetes args: [doctor]"


@dataclass(frozen=True)
class Finding:
    """What one check found: ok, a warning, a problem, or not checked; what to do; and on which rank, if not on rank 0."""

    check: str
    state: str
    told: str
    remedy: str = ""
    rank: str = ""


def examine(
    settings: WarmupSettings, world: World, group: Group, contradictions: list[str]
) -> Iterator[list[Finding]]:
    """Look at everything that can be looked at from here: gives first what this rank finds, then, on rank 0, what all do."""
    found = _settings(contradictions)
    if world.rank == 0:
        found += _alone(settings, world)
    yield found
    if world.size == 1:
        yield _unchecked("needs two nodes")
        return
    run = Run(Task.from_settings(settings), world)
    if world.rank == 0:
        others = "rank 1" if world.size == 2 else f"the {world.size - 1:,} other ranks"
        log.info("waiting for %s, %.0f s at the most", others, run.task.timeouts.confirmation)
    yield _together(run, group, found)


def _settings(contradictions: list[str]) -> list[Finding]:
    if not contradictions:
        return [
            Finding(
                "settings", _OK, "valid; environment and settings file don't contradict each other"
            )
        ]
    return [Finding("settings", _WARNING, told, "unset one of the two") for told in contradictions]


# --- what one rank sees ---------------------------------------------------------------------------


def _alone(settings: WarmupSettings, world: World) -> list[Finding]:
    found = _network(settings)
    reached = all(
        finding.state == _OK for finding in found if finding.check in {"endpoint", "token"}
    )
    plan = _plan(settings, world) if reached else None
    if isinstance(plan, Finding):
        found.append(plan)
        plan = None
    return [*found, *_directory(settings, plan), _memory(settings, world, plan)]


def _plan(settings: WarmupSettings, world: World) -> Plan | Finding:
    try:
        return make_plan(Run(Task.from_settings(_quick(settings)), world))
    except Step37Error as error:
        return Finding("plan", _PROBLEM, str(error), "see what the message names")


def _quick(settings: WarmupSettings) -> WarmupSettings:
    return settings.model_copy(update={"attempts": min(settings.attempts, _TRIES)})


def _network(settings: WarmupSettings) -> list[Finding]:
    """Reach the Hub as the downloader would: by name, by connection, by the API, and by a file."""
    if settings.offline:
        return [
            Finding(check, _SKIPPED, "offline is set")
            for check in ("endpoint", "proxy", "token", "clock")
        ]
    hub = Hub(settings.repo_id, settings.hub_options(), _quick(settings).fetch_options())
    proxy = proxy_before(hub.endpoint)
    through = f"through the proxy {proxy}, whose users share one quota" if proxy else "none"
    if why := _unreachable(f"//{proxy}" if proxy else hub.endpoint, settings.connect_timeout):
        return _not_reached(hub, proxy, why, settings)
    start = time.monotonic()
    try:
        headers = hub.head_metadata(hub.resolve(settings.revision or "main"), settings.split)
    except (Step37Error, ValueError, KeyError, TypeError) as error:
        return _refused(hub, proxy, error, settings)
    limit = RateLimit.from_headers(headers)
    left = f", {limit.remaining:,} file requests left in {limit.reset:.0f} s" if limit else ""
    return [
        Finding("endpoint", _OK, f"{hub.name} answers in {time.monotonic() - start:.1f} s{left}"),
        Finding("proxy", _OK, through),
        Finding(
            "token",
            _OK,
            "it may read the files" if hub.has_token else "none is set, and none is needed",
        ),
        _clock(headers),
    ]


def _unreachable(address: str, seconds: float) -> str:
    """Try to connect; gives why it can't be done, or nothing."""
    parts = urlsplit(address)
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or {"http": 80}.get(parts.scheme, 443)), seconds
        ).close()
    except socket.gaierror as error:
        return f"the name {parts.hostname} isn't known here ({error.strerror})"
    except OSError as error:
        return f"{parts.netloc} can't be reached ({error.strerror or error})"
    return ""


def _not_reached(hub: Hub, proxy: str | None, why: str, settings: WarmupSettings) -> list[Finding]:
    unknown = [
        Finding(check, _SKIPPED, "the endpoint isn't reached") for check in ("token", "clock")
    ]
    if proxy is None:
        remedy = "check endpoint; where nodes reach it only through a proxy, set HTTPS_PROXY; else warm up on a node with a network"
        return [Finding("endpoint", _PROBLEM, why, remedy), Finding("proxy", _OK, "none"), *unknown]
    return [
        Finding("endpoint", _SKIPPED, "the proxy is in the way"),
        _proxy_problem(hub, proxy, why, settings),
        *unknown,
    ]


def _proxy_problem(hub: Hub, proxy: str, why: str, settings: WarmupSettings) -> Finding:
    host = urlsplit(hub.endpoint).hostname
    remedy = "correct HTTPS_PROXY or HTTP_PROXY, or ask who runs it"
    if not _unreachable(hub.endpoint, settings.connect_timeout):
        remedy = f"without it {host} is reached: add that to NO_PROXY"
    return Finding(
        "proxy", _PROBLEM, f"requests to {host} go through the proxy {proxy}: {why}", remedy
    )


def _refused(
    hub: Hub, proxy: str | None, error: Exception, settings: WarmupSettings
) -> list[Finding]:
    """Tell whose answer it is: the Hub's says so in a header, and 401 is never a proxy's."""
    answer = error.__cause__
    by_hub = isinstance(answer, Refused) and answer.by_hub
    no_clock = Finding("clock", _SKIPPED, "the Hub didn't answer")
    why = (
        str(error)
        if isinstance(error, Step37Error)
        else f"{hub.name} answers, but not as a Hub does ({type(error).__name__})"
    )
    if proxy and not by_hub:
        others = [
            Finding(check, _SKIPPED, "the proxy is in the way") for check in ("endpoint", "token")
        ]
        return [*others, _proxy_problem(hub, proxy, why, settings), no_clock]
    fine = Finding("proxy", _OK, f"through the proxy {proxy}" if proxy else "none")
    if isinstance(error, AccessDenied | RepositoryNotFound) and by_hub:
        remedy = "set HF_TOKEN or token_file to a token that may read it, or correct repo_id"
        return [
            Finding("endpoint", _OK, f"{hub.endpoint} answers"),
            fine,
            Finding("token", _PROBLEM, why, remedy),
            no_clock,
        ]
    remedy = (
        "correct what the message names"
        if isinstance(error, ConfigurationError)
        else "is there a login page or a proxy between?"
    )
    return [
        Finding("endpoint", _PROBLEM, why, remedy),
        fine,
        Finding("token", _SKIPPED, "the Hub didn't answer"),
        no_clock,
    ]


def _clock(headers: Mapping[str, str]) -> Finding:
    told = next((value for name, value in headers.items() if name.lower() == "date"), None)
    if told is None:
        return Finding("clock", _SKIPPED, "the endpoint doesn't tell its time")
    ahead = time.time() - parsedate_to_datetime(told).timestamp()
    if abs(ahead) < _SKEW:
        return Finding("clock", _OK, f"within {_SKEW:.0f} s of the endpoint's")
    way = "ahead of" if ahead > 0 else "behind"
    remedy = "synchronise it (chronyc tracking): certificates and signed addresses have dates"
    return Finding("clock", _WARNING, f"{abs(ahead):,.0f} s {way} the endpoint's", remedy)


def _directory(settings: WarmupSettings, plan: Plan | None) -> list[Finding]:
    directory = CacheDirectory(settings.cache_dir.absolute(), settings.split)
    place = nearest(directory.root)
    beside = "" if place == directory.root else f" ({directory.root} isn't there yet)"
    if plan and plan.warm:
        return [
            Finding(check, _OK, f"{directory.root} is warm: nothing is to be written")
            for check in ("folder", "space")
        ]
    try:
        try_out(directory)
    except Step37Error as error:
        # Else the message names one
        remedy = "choose another cache_dir" if isinstance(error, TransientError) else ""
        return [
            Finding("folder", _PROBLEM, str(error), remedy),
            Finding("space", _SKIPPED, "the directory isn't usable"),
        ]
    fine = Finding("folder", _OK, f"{place} takes files and renames{beside}")
    if kind := local_file_system(directory.root):
        told = f"{place} is on {kind}, which other nodes can't see, unless this one exports it"
        fine = Finding(
            "folder",
            _WARNING,
            told,
            "for more than one node choose a shared cache_dir, or cache_scope=node",
        )
    if plan is None:
        return [
            fine,
            Finding("space", _SKIPPED, "what is needed isn't known, since the Hub wasn't asked"),
        ]
    try:
        check_space(directory, plan.bytes, plan.fetch)
    except FolderFull as error:
        return [fine, Finding("space", _PROBLEM, str(error))]
    return [
        fine,
        Finding("space", _OK, f"room for {plan.fetch:,} files, {plan.bytes / 1e6:,.1f} MB"),
    ]


def _memory(settings: WarmupSettings, world: World, plan: Plan | None) -> Finding:
    if plan and plan.warm:
        return Finding("memory", _OK, "nothing is to be fetched")
    size = 2 * plan.bytes // max(1, plan.fetch) if plan else _UNKNOWN_SIZE  # sizes differ
    own = _OWN_MEMORY + (_TORCH_MEMORY if world.size > 1 else 0)
    limit, who = memory_limit()
    need = own + memory_in_flight(settings.concurrency, size)
    told = f"{who} {limit / 1e6:,.0f} MB; concurrency {settings.concurrency} may need {need / 1e6:,.0f} MB"
    if need <= limit:
        return Finding("memory", _OK, told)
    fitting = next(
        (
            fewer
            for fewer in range(settings.concurrency, 0, -1)
            if own + memory_in_flight(fewer, size) <= limit
        ),
        0,
    )
    remedy = "raise the limit" + (f", or set concurrency to {fitting}" if fitting >= 1 else "")
    return Finding("memory", _PROBLEM, told, remedy)


# --- what ranks on different nodes see of each other ----------------------------------------------


def _together(run: Run, group: Group, own: list[Finding]) -> list[Finding]:
    """Let all ranks look for a file before it is there, and then for it: two calls, since a name once missed may stay missing."""
    timeouts = run.task.timeouts
    place = nearest(run.directory.root)
    probe = Probe(place)
    within = min(_SEEN_WITHIN, timeouts.visibility)

    def miss(result: JsonObject) -> JsonObject:
        Path(result["probe"]).exists()
        return {
            "findings": [
                asdict(finding)
                for finding in own + _arguments(run.arguments(), result["arguments"])
            ]
        }

    def make(_: Any) -> Value:
        try:
            return {"probe": str(probe.path), "locked": probe.make(), "problem": ""}
        except OSError as error:
            return {
                "probe": str(probe.path),
                "locked": None,
                "problem": f"{place}: {error.strerror}",
            }

    try:
        begun = {"probe": str(probe.path), "arguments": run.arguments()}
        first = share(group, lambda _: begun, confirm=miss, timeouts=timeouts)
        if group.rank == 0 and all(
            report.ok is None for rank, report in first.ranks.items() if rank != 0
        ):
            return [*_of_others(first.ranks), *_unchecked("no other rank came")]
        second = share(
            group,
            make,
            confirm=lambda made: _seen(made, within) if group.rank else {},
            timeouts=timeouts,
        )
    finally:
        probe.close()
    if group.rank:
        return []
    return [*_of_others(first.ranks), *_compared(second, within)]


def _arguments(ours: JsonObject, rank_0s: JsonObject) -> list[Finding]:
    told = difference(ours, rank_0s)
    return (
        [
            Finding(
                "arguments", _PROBLEM, told, "pass the same to every rank: else warmup refuses them"
            )
        ]
        if told
        else []
    )


def _seen(made: JsonObject, within: float) -> Value:
    """Look for rank 0's file as the project looks, by listing its directory first, and try its lock."""
    path, start = Path(made["probe"]), time.monotonic()
    said: Value = {"late": not path.exists(), "listed": False, "seen_after": None, "locked": None}
    while True:
        try:
            said["listed"] |= path.name in os.listdir(path.parent)
            with path.open("rb") as file:
                return said | {
                    "seen_after": round(time.monotonic() - start, 3),
                    "locked": lock(file),
                }
        except OSError:  # not there, or not yet
            if time.monotonic() - start > within:
                return said
        time.sleep(0.1)


def _of_others(ranks: Mapping[int, RankReport]) -> list[Finding]:
    silent = [rank for rank, report in ranks.items() if report.ok is None]
    found = [
        Finding("ranks", _PROBLEM, f"rank {rank} never came", "look at its own log and node")
        for rank in silent[:8]
    ]
    for rank, report in ranks.items():
        others = report.found.get("findings", []) if rank != 0 else []
        found += [
            Finding(**finding | {"rank": f"rank {rank} on {report.host}"})
            for finding in others
            if finding["state"] != _OK
        ]
    return found


def _unchecked(why: str) -> list[Finding]:
    return [Finding(check, _SKIPPED, why, _HOW) for check in _TWO_NODES]


def _compared(second: CallResult, within: float) -> list[Finding]:
    made = second.result
    if made["problem"]:
        return [
            Finding(check, _SKIPPED, f"rank 0 can't make a file: {made['problem']}")
            for check in _TWO_NODES
        ]
    home = _node(second.ranks[0].host)
    away = {
        f"rank {rank} on {report.host}": report.found
        for rank, report in second.ranks.items()
        if report.ok and _node(report.host) != home
    }
    if not away:
        return _unchecked(f"all ranks that answered are on {home}: needs two nodes")
    return [_shared(made, away), _locks(made, away), _lag(away, within)]


def _node(host: str | None) -> str:
    return (host or "").partition("/")[0]  # of a pod: node/pod


def _which(away: Mapping[str, JsonObject], fits: Callable[[JsonObject], bool]) -> str:
    return listed(name for name, said in away.items() if fits(said))


def _shared(made: JsonObject, away: Mapping[str, JsonObject]) -> Finding:
    place = Path(made["probe"]).parent
    if blind := _which(away, lambda said: not said["listed"]):
        remedy = "choose a cache_dir on a file system that all nodes share, at the same path, or cache_scope=node"
        return Finding(
            "folder shared", _PROBLEM, f"{blind} doesn't see what rank 0 writes to {place}", remedy
        )
    return Finding(
        "folder shared",
        _OK,
        f"what rank 0 writes to {place} is seen on other nodes, by {counted(len(away), 'rank')}",
    )


def _locks(made: JsonObject, away: Mapping[str, JsonObject]) -> Finding:
    remedy = "nothing here rests on locks; with other programs (datasets, huggingface_hub) let one rank write, or mount with -o flock"
    if made["locked"] is None:
        return Finding("locks", _WARNING, "flock is refused", remedy)
    seeing = {name: said for name, said in away.items() if said["seen_after"] is not None}
    if not seeing:
        return Finding("locks", _SKIPPED, "nobody on another node could open the file")
    if refused := _which(seeing, lambda said: said["locked"] is None):
        return Finding("locks", _WARNING, f"flock is refused on {refused}", remedy)
    if liars := _which(seeing, lambda said: bool(said["locked"])):
        return Finding(
            "locks", _WARNING, f"flock lies: {liars} got the lock that rank 0 holds", remedy
        )
    return Finding("locks", _OK, "flock holds between nodes")


def _lag(away: Mapping[str, JsonObject], within: float) -> Finding:
    listing = {name: said for name, said in away.items() if said["listed"]}
    if not listing:
        return Finding("lag", _SKIPPED, "the directory isn't shared")
    if missing := _which(listing, lambda said: said["seen_after"] is None):
        remedy = "mount with shorter time-outs for names and attributes, or raise visibility_timeout beyond them"
        return Finding(
            "lag",
            _WARNING,
            f"{missing} lists the file, but can't open it within {within:g} s",
            remedy,
        )
    told = f"seen within {max(said['seen_after'] for said in listing.values()):.2f} s of being written, by listing the directory"
    if late := _which(listing, lambda said: said["late"]):
        told += f"; by name alone not at once by {late}, which had looked too early"
        return Finding(
            "lag",
            _OK,
            told,
            "list a directory before you look for a file in it; nothing here waits by name",
        )
    return Finding("lag", _OK, told)
