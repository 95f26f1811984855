"""The doctor: checks what usually goes wrong on a cluster, before a job meets it.

Every check is a function that returns what it found, as a `Finding` with a remedy:

- `rank_checks`: what one rank checks alone.
- `network_checks`: endpoint, proxy, token, clock.
- `version_checks`: what is installed.
- `node_checks`: what ranks on different nodes check together.

To add a check, write such a function there and call it in `rank_checks.check_rank` (on every rank),
`rank_checks.check_rank_zero` or `node_checks.check_nodes`.
"""

import logging
from collections.abc import Iterator, Sequence

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.share import Group
from step37_flickr8k.diagnostics.finding import Finding
from step37_flickr8k.diagnostics.node_checks import check_nodes, not_checked
from step37_flickr8k.diagnostics.rank_checks import check_rank, check_rank_zero
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.settings import WarmupSettings

__all__ = ["examine"]

log = logging.getLogger("step37_flickr8k")


def examine(
    settings: WarmupSettings, world: World, group: Group | None, contradictions: Sequence[str]
) -> Iterator[list[Finding]]:
    """Make all checks; yield what this rank finds, then, on rank 0, what all ranks find.

    ``contradictions`` are those between environment and settings file. ``group`` is None where
    ranks can't reach each other, because torch isn't installed.
    """
    found = check_rank(contradictions, world.size)
    if world.rank == 0:
        found += check_rank_zero(settings, world)
    yield found
    if world.size == 1 or group is None:
        yield not_checked("needs two nodes" if world.size == 1 else "ranks need torch")
        return
    run = Run(Task.from_settings(settings), world)
    if world.rank == 0:
        others = "rank 1" if world.size == 2 else f"the {world.size - 1:,} other ranks"
        log.info("waiting for %s, at most %.0f s", others, run.task.timeouts.confirmation)
    yield check_nodes(run, group, found)
