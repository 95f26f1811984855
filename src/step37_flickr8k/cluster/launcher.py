"""Rank, world size, node and run id of this process, read from the launcher's variables.

A launcher is one reader: a function that returns a `World` if its variables are set, otherwise
None. To add one, write its reader, name its variables in ``_VARIABLES`` and list it in
``_READERS``; the first reader that returns a world wins. If it names its runs, ``_run_id`` reads
that name.
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from step37_flickr8k.cluster.slurm import first_host, step_port
from step37_flickr8k.errors import InvalidWorld

__all__ = ["World"]

_HIGHEST_NUMBER = 1 << 31
_HIGHEST_PORT = 65535

# By launcher: the variables that hold the rank and the world size
_VARIABLES = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    "env": ("RANK", "WORLD_SIZE"),
    "kubernetes": ("JOB_COMPLETION_INDEX", "WORLD_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's rank among the processes of the job; None is what the launcher doesn't say.

    ``run_id`` names the run of a job, the same on all its ranks and after restarts.
    ``agent_store`` says that torchrun's agent serves the store at ``master_addr``, not rank 0.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_world_size: int | None = None
    node_rank: int | None = None
    node_count: int | None = None
    launcher: str = "none"
    run_id: str | None = None
    master_addr: str | None = None
    master_port: int | None = None
    agent_store: bool = False
    host: str = field(default_factory=socket.gethostname)

    def __post_init__(self) -> None:
        """Refuse a rank outside of the world."""
        if not 0 <= self.rank < self.size:
            rank, size = _VARIABLES.get(self.launcher, _VARIABLES["env"])
            remedy = (
                f"Set the Job's completions and parallelism, and {size} of its container, "
                "to one number."
                if self.launcher == "kubernetes"
                else "Let the launcher set them."
            )
            raise InvalidWorld(
                f"{rank}={self.rank} is out of range for {size}={self.size}: they disagree. "
                f"{remedy}"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "World":
        """Read the variables of torchrun (or set by hand), Kubernetes, a SLURM step or Open MPI.

        Without any of them this is rank 0 of 1. A partial set raises `InvalidWorld`: a rank that
        takes itself for rank 0 of 1 would download in addition to all others.
        """
        variables = _Variables(environ)
        found = (world for read in _READERS if (world := read(variables)) is not None)
        world = next(found, None) or _single(variables)
        return replace(
            world,
            run_id=_run_id(environ),
            master_addr=environ.get("MASTER_ADDR") or world.master_addr,
            master_port=variables.number("MASTER_PORT", 1, _HIGHEST_PORT) or world.master_port,
            agent_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            host=_host(environ),
        )

    def rendezvous(self) -> tuple[str, int]:
        """Return host and port of the store; raises `InvalidWorld` naming the missing variable."""
        if self.master_addr is None or self.master_port is None:
            missing, value = (
                ("MASTER_ADDR", "the host of rank 0")
                if self.master_addr is None
                else ("MASTER_PORT", "a free port on the host of rank 0")
            )
            raise InvalidWorld(
                f"{self.size} ranks need a store to meet at, but {missing} isn't set. "
                f"Set it to {value}, the same on all ranks."
            )
        return self.master_addr, self.master_port

    @property
    def label(self) -> str:
        """The start of each line of a log: host, node where the launcher says it, rank."""
        node = (
            "" if self.node_rank is None else f" node {self.node_rank}/{_or_dash(self.node_count)}"
        )
        return f"{self.host}{node} rank {self.rank}/{self.size}"

    def describe(self) -> str:
        """Return the first line that every rank logs; what the launcher doesn't say is "-"."""
        return (
            f"host {self.host}, "
            f"local rank {self.local_rank} of {_or_dash(self.local_world_size)}, "
            f"node {_or_dash(self.node_rank)} of {_or_dash(self.node_count)}, "
            f"global rank {self.rank} of {self.size}"
        )


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


class _Variables:
    """The environment as a launcher's reader needs it: whole numbers, checked."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __contains__(self, name: str) -> bool:
        return name in self._environ

    def text(self, name: str) -> str:
        """Return a variable's value, "" if it isn't set."""
        return self._environ.get(name, "")

    def number(self, name: str, lowest: int = 0, highest: int = _HIGHEST_NUMBER) -> int | None:
        """Return a variable's value, None if it isn't set."""
        text = self._environ.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise InvalidWorld(
                f"{name}={text!r} is not a whole number from {lowest} to {highest}. "
                "Correct it, or unset it."
            )
        return int(text)

    def required(self, name: str, *, because: str, remedy: str) -> int:
        """Return a world size, which must be set if ``because`` is."""
        number = self.number(name, 1)
        if number is None:
            raise InvalidWorld(f"{because} is set, but {name} isn't. {remedy}.")
        return number


def _single(variables: _Variables) -> World:
    """Return rank 0 of 1; refuses it where a variable says that there are more ranks."""
    size = variables.number("WORLD_SIZE", 1)
    if "LOCAL_RANK" in variables or (size is not None and size > 1):
        found = "LOCAL_RANK" if "LOCAL_RANK" in variables else f"WORLD_SIZE={size}"
        raise InvalidWorld(
            f"{found} is set, but RANK isn't. "
            "Set RANK too, or start the command with torchrun, srun or mpirun."
        )
    return World()


def _environment(variables: _Variables) -> World | None:
    """Read RANK and WORLD_SIZE, set by torchrun or by hand; they win under srun, too."""
    rank = variables.number("RANK")
    if rank is None:
        return None
    size = variables.required("WORLD_SIZE", because="RANK", remedy="Set it to the number of ranks")
    local_world_size = variables.number("LOCAL_WORLD_SIZE", 1)
    return World(
        rank=rank,
        size=size,
        local_rank=variables.number("LOCAL_RANK") or 0,
        local_world_size=local_world_size,
        node_rank=variables.number("GROUP_RANK"),
        node_count=size // local_world_size if local_world_size else None,
        launcher=_launcher_of_rank(variables),
    )


def _launcher_of_rank(variables: _Variables) -> str:
    """Return who has set RANK; a Job that passes its index in for torch sets it, too."""
    if "TORCHELASTIC_RUN_ID" in variables:
        return "torchrun"
    return "kubernetes" if "JOB_COMPLETION_INDEX" in variables else "env"


def _kubernetes(variables: _Variables) -> World | None:
    """Read an Indexed Job's index; the Job must pass in how many there are."""
    rank = variables.number("JOB_COMPLETION_INDEX")
    if rank is None:
        return None
    size = variables.required(
        "WORLD_SIZE", because="JOB_COMPLETION_INDEX", remedy="Set it to the Job's completions"
    )
    return World(rank=rank, size=size, launcher="kubernetes")


def _slurm(variables: _Variables) -> World | None:
    """Read a step's variables.

    A batch script outside of srun is one process, although it has SLURM_PROCID=0 and
    SLURM_NTASKS=4, too; only a step has SLURM_STEP_ID.
    """
    rank = variables.number("SLURM_PROCID") if "SLURM_STEP_ID" in variables else None
    if rank is None:
        return None
    size = variables.required(
        "SLURM_STEP_NUM_TASKS", because="SLURM_PROCID", remedy="Start the command with srun"
    )
    world_size = variables.number("WORLD_SIZE", 1)
    if world_size not in {None, size}:
        raise InvalidWorld(
            f"WORLD_SIZE={world_size}, but SLURM_STEP_NUM_TASKS={size}. "
            "Unset WORLD_SIZE, or set RANK too."
        )
    return World(
        rank=rank,
        size=size,
        local_rank=variables.number("SLURM_LOCALID") or 0,
        node_rank=variables.number("SLURM_NODEID"),
        node_count=variables.number("SLURM_STEP_NUM_NODES", 1),
        launcher="slurm",
        master_addr=_first_host_of_step(variables),
        master_port=_port_of_step(variables),
    )


def _first_host_of_step(variables: _Variables) -> str | None:
    """Return the host of rank 0; None if a file of the user arranges the ranks."""
    if "SLURM_HOSTFILE" in variables:
        return None
    return first_host(variables.text("SLURM_STEP_NODELIST"))


def _port_of_step(variables: _Variables) -> int:
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    job, step, restart = (variables.number(name, highest=1 << 32) or 0 for name in names)
    return step_port(job, step, restart)


def _open_mpi(variables: _Variables) -> World | None:
    """Read mpirun's variables."""
    rank = variables.number("OMPI_COMM_WORLD_RANK")
    if rank is None:
        return None
    size = variables.required(
        "OMPI_COMM_WORLD_SIZE",
        because="OMPI_COMM_WORLD_RANK",
        remedy="Start the command with mpirun",
    )
    return World(
        rank=rank,
        size=size,
        local_rank=variables.number("OMPI_COMM_WORLD_LOCAL_RANK") or 0,
        local_world_size=variables.number("OMPI_COMM_WORLD_LOCAL_SIZE", 1),
        launcher="openmpi",
    )


_READERS: tuple[Callable[[_Variables], World | None], ...] = (
    _environment,
    _kubernetes,
    _slurm,
    _open_mpi,
)


def _host(environ: Mapping[str, str]) -> str:
    """Return this host's name; before a pod's name its node, if the Job passes that in."""
    node = environ.get("STEP37_NODE_NAME")
    return f"{node}/{socket.gethostname()}" if node else socket.gethostname()


def _run_id(environ: Mapping[str, str]) -> str | None:
    if run_id := environ.get("STEP37_RUN_ID"):
        return run_id
    if "SLURM_STEP_ID" in environ and "SLURM_JOB_ID" in environ:
        return f"slurm-{environ['SLURM_JOB_ID']}.{environ['SLURM_STEP_ID']}"
    torchrun = environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if torchrun == "none" else f"torchrun-{torchrun}"
