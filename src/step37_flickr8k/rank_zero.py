"""Any piece of work, run once for all ranks of a job or of each node.

The mechanism of `step37_flickr8k.prepare_flickr8k_samples` for datasets, models, tokenizers and
compilation caches: ``docs/how-to/run-on-rank-zero.md``.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.node import NodeRank
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.cluster.protocol.keys import Timeouts
from step37_flickr8k.cluster.share import Group, share
from step37_flickr8k.cluster.stores import current_group, job_group
from step37_flickr8k.cluster.values import json_copy, name_of
from step37_flickr8k.errors import InvalidSettings, InvalidWorld
from step37_flickr8k.settings import WarmupSettings, library_settings, read_job_secret

__all__ = ["run_on_rank_zero"]

# Characters of a progress text: each heartbeat has it
_LONGEST_TEXT = 1000


def run_on_rank_zero(
    work: Callable[..., object],
    *,
    scope: Literal["job", "node"] = "job",
    arguments: Mapping[str, object] | None = None,
    timeouts: Timeouts | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Any:
    """Run ``work`` on one rank, and return its result, or raise its error, on every rank.

    The ranks are those of the initialized process group, whatever its backend; without one, those
    that the launcher has started; otherwise this process alone. Every rank makes the same calls in
    the same order, each at its own time, and not inside the work of another call.

    Args:
        work: is called in a thread of its own, with the context variables of the caller: without
            arguments, or, if it requires one, with a function ``report(text)`` by which it says
            how far it is. It returns text, numbers, booleans,
            None, and lists and dicts of these, at most 1 MB of JSON: what it makes goes to a file
            that the ranks can read. Every rank receives an equal copy.
        scope: "job" runs it once, on rank 0; "node" once on each node, on local rank 0, and
            the ranks of a node receive their own node's result.
        arguments: what must be equal on all ranks, with the name of ``work``.
        timeouts: how long silence may last, in seconds. None takes ``arrival_timeout``,
            ``heartbeat_timeout`` and ``visibility_timeout`` from the environment and the settings
            file. Work has no time limit unless ``stall`` sets one between two different reports.
        on_progress: is called with the latest report: on the rank that works at each new one, on
            the other ranks at each heartbeat.

    Raises:
        CallMismatch: the ranks called for different work, or with different arguments.
        RankZeroLost: the rank that works was signalled, killed, silent or never met.
        Stalled: the work has reported nothing new for ``stall`` seconds.
        InvalidWorld: the launcher's variables don't say which ranks there are.
        Exception: what ``work`` raised. On the other ranks an error of Python or of this package
            has its class and message; any other one is a `Step37Error` that names both.
    """
    name, takes_report = name_of(work), _takes_report(work)
    settings = library_settings(os.environ)
    group = _group(scope, settings)
    if timeouts is None:
        timeouts = Timeouts(
            arrival=settings.arrival_timeout,
            heartbeat=settings.heartbeat_timeout,
            visibility=settings.visibility_timeout,
        )

    def do(tracker: ProgressTracker) -> dict[str, object]:
        def report(text: str) -> None:
            tracker.report(Progress(State.WORKING, str(text)[:_LONGEST_TEXT]))

        return {"result": json_copy(work(report) if takes_report else work(), "the result")}

    def watch(progress: Progress) -> None:
        if on_progress is not None and progress.state is State.WORKING:
            on_progress(progress.detail)

    compared = {
        f"arguments[{key!r}]": json_copy(value, f"arguments[{key!r}]")
        for key, value in (arguments or {}).items()
    }
    shared = share(group, do, watch=watch, arguments={"work": name, **compared}, timeouts=timeouts)
    return shared.result["result"]


def _takes_report(work: Callable[..., object]) -> bool:
    """Return whether work requires one argument; raises TypeError if it requires more."""
    try:
        parameters = inspect.signature(work).parameters.values()
    except ValueError:
        # A function of C that doesn't say what it takes
        return False
    varying = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [
        each for each in parameters if each.default is each.empty and each.kind not in varying
    ]
    if len(required) > 1 or any(each.kind is each.KEYWORD_ONLY for each in required):
        names = ", ".join(each.name for each in required)
        raise TypeError(
            f"work requires {names}, but is called with report alone, or without arguments: "
            "pass a lambda or a functools.partial that has the rest"
        )
    return bool(required)


def _group(scope: str, settings: WarmupSettings) -> Group:
    """Return the ranks of the job, or those of this node."""
    if scope not in ("job", "node"):
        raise InvalidSettings(
            f'scope={scope!r} is neither "job" nor "node"; other parts of the ranks, such as a '
            "subgroup of the process group, aren't supported"
        )
    group = current_group()
    if group is not None:
        world = World.of_process_group(group.rank, group.size, os.environ)
        group = replace(group, host=world.host)
        if scope == "job" or group.size == 1:
            return group
        node = NodeRank.in_process_group(world, os.environ)
        # Of several ranks, since nobody needs to know of how many
        return group.part(f"node {node.node}", rank=node.rank, size=node.size or group.size)
    world = World.from_environment(os.environ)
    secret = read_job_secret(settings.job_secret_file)
    if scope == "job" or world.size == 1:
        return _launched(world, secret)
    return _launched_on_node(world, secret)


def _launched_on_node(world: World, secret: bytes) -> Group:
    """Return the ranks of this node, which meet on it; under torchrun at its agent's store."""
    node = NodeRank.of(world)
    if node.size is None:
        raise InvalidWorld(
            'scope="node" needs the number of ranks of a node, but LOCAL_WORLD_SIZE isn\'t set. '
            "Set it, or initialize the process group first."
        )
    if not world.agent_store:
        _, port = world.rendezvous()
        world = replace(
            world, rank=node.rank, size=node.size, master_addr="localhost", master_port=port
        )
    # Keys of their own: rank 0's node may meet at the store of the job.
    return _launched(world, secret).part(f"node {node.node}", rank=node.rank, size=node.size)


@functools.cache
def _launched(world: World, secret: bytes) -> Group:
    """Return the ranks that a launcher has started; each process has one such group.

    Rank 0 serves the store until its process ends: a rank that has left the call may initialize a
    process group at the same address while other ranks are still leaving.
    """
    group = job_group(world, secret)
    if group.size == 1 or group.reconnects:
        return group
    return replace(group, connect=functools.cache(group.connect))
