"""Where the ranks of a SLURM step meet if nobody says so: what all of them derive alike.

No ``scontrol`` is needed, which images of containers don't have.
"""

import re

__all__ = ["first_host", "step_port"]

# Below the ports that the kernel gives to clients
_FIRST_PORT, _PORTS = 20_000, 10_000
# Primes, so that the steps and restarts of neighboring jobs rarely derive the same port
_APART_BY_STEP, _APART_BY_RESTART = 101, 1009


def first_host(node_list: str) -> str | None:
    """Return the first host of a list such as ``n[01-03,07]-ib,gpu-1``; rank 0 runs there."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", node_list)
    # A bracket holds numbers and ranges of numbers
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0]) if first else None


def step_port(job: int, step: int, restart: int) -> int:
    """Return a port for a step; a restart of the job takes another one.

    ``slurm/common.sh`` derives the same for the first step.
    """
    return _FIRST_PORT + (job + _APART_BY_STEP * step + _APART_BY_RESTART * restart) % _PORTS
