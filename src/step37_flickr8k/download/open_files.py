"""How many connections the limit of open files allows, and how the command raises that limit."""

import logging
import os
import resource
from dataclasses import replace

from step37_flickr8k.settings.options import FetchOptions

__all__ = ["connections_allowed", "raise_limit", "within_limit"]

log = logging.getLogger("step37_flickr8k")

# A file may hold two connections: an idle one to the Hub, and that to the CDN it was redirected to
_PER_FILE = 2
# Workers' pipes, the event loop, files being written, what the libraries open
_RESERVED = 64


def raise_limit() -> None:
    """Raise this process's soft limit of open files to the hard one, which any user may do.

    For the command alone: in a user's process the limit may be low for a reason.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A sandbox may forbid it; then the concurrency is lowered
    except (OSError, ValueError) as error:
        log.debug("the limit of open files stays: %s", error)


def connections_allowed() -> int:
    """Return how many files may be in flight, at least one, with what is open in this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        used = _RESERVED
    return max(1, (soft - used - _RESERVED) // _PER_FILE)


def within_limit(options: FetchOptions) -> FetchOptions:
    """Return the options with a concurrency that the limit of open files allows."""
    allowed = connections_allowed()
    if options.concurrency <= allowed:
        return options
    log.warning(
        "concurrency is %d instead of %d, because this process may open no more files (ulimit -n):"
        " raise that limit, or set concurrency to this",
        allowed,
        options.concurrency,
    )
    return replace(options, concurrency=allowed)
