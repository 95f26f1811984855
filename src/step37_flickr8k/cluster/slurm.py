"""Where the ranks of a SLURM step meet if nobody says so, and how many run on a node.

No ``scontrol`` is needed, which images of containers don't have.
"""

import itertools
import re

from step37_flickr8k.cluster.variables import Variables

__all__ = ["first_host", "host_of_step", "port_of_step", "step_port", "tasks_on_node"]

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


def host_of_step(variables: Variables) -> str | None:
    """Return the host of rank 0; None if a file of the user arranges the ranks."""
    if "SLURM_HOSTFILE" in variables:
        return None
    return first_host(variables.text("SLURM_STEP_NODELIST"))


def port_of_step(variables: Variables, step: int | None = None) -> int:
    """Return the port of this step, or of another one of this job."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    job, own_step, restart = (variables.number(name, highest=1 << 32) or 0 for name in names)
    return step_port(job, own_step if step is None else step, restart)


def tasks_on_node(variables: Variables) -> int | None:
    """Return how many tasks of this step run on this node; None if SLURM doesn't say."""
    before = variables.number("SLURM_NODEID")
    # Such as "2(x3),1": two on each of three nodes, one on the fourth
    counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", variables.text("SLURM_STEP_TASKS_PER_NODE"))
    by_node = (int(tasks) for tasks, nodes in counts for _ in range(int(nodes or 1)))
    return None if before is None else next(itertools.islice(by_node, before, None), None)
