"""The checks that one rank makes alone: settings, plan, directory, space, memory.

The checks of the network are in `network_checks`.
"""

from collections.abc import Sequence

from step37_flickr8k.cache.capabilities import TRIED, try_capabilities
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.filesystem import local_file_system
from step37_flickr8k.cache.preflight import check_space, try_out
from step37_flickr8k.cache.scan import nearest
from step37_flickr8k.cache.unfinished import sweep_probes
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.dataset.words import amount
from step37_flickr8k.diagnostics.finding import Finding, State
from step37_flickr8k.diagnostics.network_checks import check_network, with_few_attempts
from step37_flickr8k.diagnostics.version_checks import check_versions
from step37_flickr8k.download.files import memory_in_flight
from step37_flickr8k.download.open_files import connections_allowed
from step37_flickr8k.errors import FolderFull, Step37Error, TransientError
from step37_flickr8k.job.plan import make_plan
from step37_flickr8k.job.results import Plan
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.limited.memory import memory_limit
from step37_flickr8k.settings import WarmupSettings

__all__ = ["check_rank", "check_rank_zero"]

# Bytes of an image, if the plan isn't known
_UNKNOWN_SIZE = 1 << 20
# Bytes of the process with its workers. Measured: 72 MB, and 110 MB more with pyarrow.
_OWN_MEMORY = 200 << 20
# Bytes of torch.distributed
_TORCH_MEMORY = 250 << 20


def check_rank(contradictions: Sequence[str], ranks: int) -> list[Finding]:
    """Return what every rank of so many checks for itself.

    ``contradictions`` are those of its settings.
    """
    valid = "valid; environment and settings file don't contradict each other"
    settings = [
        Finding.warning("settings", message, "unset one of the two") for message in contradictions
    ] or [Finding.ok("settings", valid)]
    return [*check_versions(ranks), *settings]


def check_rank_zero(settings: WarmupSettings, world: World) -> list[Finding]:
    """Return what rank 0 checks, which would download."""
    network = check_network(settings)
    found, plan = [*network], None
    reached = all(each.state is State.OK for each in network if each.check in {"endpoint", "token"})
    # Offline the plan comes from the cache alone
    if reached or settings.offline:
        try:
            plan = make_plan(Run(Task.from_settings(with_few_attempts(settings)), world))
        except Step37Error as error:
            found.append(Finding.problem("plan", str(error), "see what the message names"))
    if plan is not None and plan.warm:
        return [*found, *_nothing_to_do(settings)]
    limits = [_check_memory(settings, world, plan), _check_open_files(settings)]
    return [*found, *_check_directory(settings, plan), *limits]


def _nothing_to_do(settings: WarmupSettings) -> list[Finding]:
    warm = f"{settings.cache_dir.absolute()} is warm: nothing is to be written"
    return [
        Finding.not_checked("folder", warm),
        Finding.not_checked("space", warm),
        Finding.not_checked("memory", "nothing is to be fetched"),
    ]


def _check_directory(settings: WarmupSettings, plan: Plan | None) -> list[Finding]:
    """Check that the directory can be written, is not local to this node, and has enough space."""
    directory = CacheDirectory(settings.cache_dir.absolute(), settings.split)
    existing = nearest(directory.root)
    if existing != directory.root:
        sweep_probes(directory.tree, existing, directory.split)
    try:
        try_out(directory)
    except Step37Error as error:
        # The message of a configuration error names its remedy
        remedy = "choose another cache_dir" if isinstance(error, TransientError) else ""
        return [
            Finding.problem("folder", str(error), remedy),
            Finding.not_checked("space", "the directory isn't usable"),
        ]
    if kind := local_file_system(directory.root):
        usable = Finding.warning(
            "folder",
            f"{existing} is on {kind}, which other nodes can't see, unless this one exports it",
            "for more than one node choose a shared cache_dir, or cache_scope=node",
        )
    else:
        missing = f" ({directory.root} doesn't exist yet)" if existing != directory.root else ""
        usable = Finding.ok("folder", f"{existing} takes files and renames{missing}")
    return [usable, *_check_file_system(directory), _check_space(directory, plan)]


def _check_file_system(directory: CacheDirectory) -> list[Finding]:
    """Return what the file system can't do and what a run does without it, or that all is there."""
    lacks = [*try_capabilities(directory)]
    if not lacks:
        return [Finding.ok("file system", f"it can do all that was tried: {', '.join(TRIED)}")]
    return [
        (Finding.problem if lack.needed else Finding.warning)(
            "file system", f"{lack.what}: {lack.how}", lack.without
        )
        for lack in lacks
    ]


def _check_space(directory: CacheDirectory, plan: Plan | None) -> Finding:
    if plan is None:
        return Finding.not_checked("space", "what is needed isn't known without a plan")
    try:
        check_space(directory, plan.bytes, plan.fetch)
    except FolderFull as error:
        return Finding.problem("space", str(error))
    return Finding.ok("space", f"enough for {plan.fetch:,} files, {amount(plan.bytes)}")


def _check_open_files(settings: WarmupSettings) -> Finding:
    """Compare the concurrency with what the limit of open files allows."""
    allowed = connections_allowed()
    if settings.concurrency <= allowed:
        return Finding.ok("open files", f"enough for concurrency {settings.concurrency}")
    return Finding.warning(
        "open files",
        f"ulimit -n allows concurrency {allowed}, not {settings.concurrency}: it will be lowered",
        f"raise the limit, or set concurrency to {allowed}",
    )


def _check_memory(settings: WarmupSettings, world: World, plan: Plan | None) -> Finding:
    """Compare the memory that the download may need with the lowest limit of this process."""
    # Twice the mean, because sizes differ
    size = 2 * plan.bytes // max(1, plan.fetch) if plan else _UNKNOWN_SIZE
    own = _OWN_MEMORY + (_TORCH_MEMORY if world.size > 1 else 0)
    limit, source = memory_limit()
    need = own + memory_in_flight(settings.concurrency, size)
    message = (
        f"{source} {limit / 1e6:,.0f} MB; concurrency {settings.concurrency} may need"
        f" {need / 1e6:,.0f} MB"
    )
    if need <= limit:
        return Finding.ok("memory", message)
    fitting = next(
        (
            fewer
            for fewer in range(settings.concurrency, 0, -1)
            if own + memory_in_flight(fewer, size) <= limit
        ),
        0,
    )
    remedy = "raise the limit" + (f", or set concurrency to {fitting}" if fitting else "")
    return Finding.problem("memory", message, remedy)
