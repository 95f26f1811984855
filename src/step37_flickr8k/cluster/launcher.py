"""Rank, world size, node and run id of this process, read from the launcher's variables.

Most launchers are entries of a table (`launchers`). The others are readers here: functions that
return a `World` if their variables are set, otherwise None. The first of ``_READERS`` that returns
one wins. If a launcher names its runs, `run_id_of` reads that name.
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from step37_flickr8k.cluster.launchers import LAUNCHERS, UNKNOWN, run_id_of
from step37_flickr8k.cluster.slurm import first_host, host_of_step, port_of_step, tasks_on_node
from step37_flickr8k.cluster.variables import Variables
from step37_flickr8k.errors import InvalidWorld

__all__ = ["World"]

_HIGHEST_PORT = 65535

# By launcher: the variables that hold the rank and the world size
_VARIABLES = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    "env": ("RANK", "WORLD_SIZE"),
    "kubernetes": ("JOB_COMPLETION_INDEX", "WORLD_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
} | {each.name: (each.rank, each.size) for each in LAUNCHERS}


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's rank among the processes of the job; None is what the launcher doesn't say.

    ``run_id`` names the run of a job, the same on all its ranks and after restarts.
    ``agent_store`` says that torchrun's agent serves the store at ``master_addr``, not rank 0.
    """

    rank: int = 0
    size: int = 1
    local_rank: int | None = None
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
    def from_environment(cls, environ: Mapping[str, str], *, needs_rank: bool = True) -> "World":
        """Read the variables of torchrun (or set by hand), Kubernetes, MPI's launchers or SLURM.

        Without any of them this is rank 0 of 1. A partial set raises `InvalidWorld`, and so do
        launchers that contradict each other: a rank that takes itself for rank 0 of 1 would
        download in addition to all others.

        Without ``needs_rank`` a process of several whose rank nobody says is rank 0 of 1, too.
        That is for a caller with a lease instead: Lightning Fabric's processes have LOCAL_RANK
        without RANK until their group is initialized.
        """
        variables = Variables(environ)
        found = (world for read in _READERS if (world := read(variables)) is not None)
        world = next(found, None) or _single(variables, needs_rank=needs_rank)
        _refuse_contradiction(world, variables)
        return replace(
            world,
            run_id=run_id_of(variables, world.launcher),
            master_addr=environ.get("MASTER_ADDR") or world.master_addr,
            master_port=variables.number("MASTER_PORT", 1, _HIGHEST_PORT) or world.master_port,
            agent_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            host=_host(environ),
        )

    @classmethod
    def of_process_group(cls, rank: int, size: int, environ: Mapping[str, str]) -> "World":
        """Return the world of an initialized process group, which says rank and size alone.

        Who started its processes may have set other variables, or none: Lightning Fabric starts
        its own ranks without RANK.
        """
        local_size = environ.get("LOCAL_WORLD_SIZE", "")
        nodes = size // int(local_size) if local_size.isdecimal() and int(local_size) else None
        return cls(
            rank=rank,
            size=size,
            node_count=nodes,
            launcher="process group",
            run_id=run_id_of(Variables(environ)),
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
        node = f" node {self.node_rank}/{_or_dash(self.node_count)}"
        return f"{self.host}{node * (self.node_rank is not None)} rank {self.rank}/{self.size}"

    def describe(self) -> str:
        """Return the first line that every rank logs; what the launcher doesn't say is "-"."""
        return (
            f"host {self.host}, "
            f"local rank {_or_dash(self.local_rank)} of {_or_dash(self.local_world_size)}, "
            f"node {_or_dash(self.node_rank)} of {_or_dash(self.node_count)}, "
            f"global rank {self.rank} of {self.size}"
        )


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _single(variables: Variables, *, needs_rank: bool) -> World:
    """Return rank 0 of 1; refuses it where a variable says that there are more ranks."""
    if not needs_rank:
        return World()
    size = variables.number("WORLD_SIZE", 1)
    if "LOCAL_RANK" in variables or (size is not None and size > 1):
        found = "LOCAL_RANK" if "LOCAL_RANK" in variables else f"WORLD_SIZE={size}"
        raise InvalidWorld(
            f"{found} is set, but RANK isn't. "
            "Set RANK too, or start the command with torchrun, srun or mpirun."
        )
    for name in UNKNOWN:
        if name in variables:
            raise InvalidWorld(
                f"{name} is set by a launcher that doesn't say how many ranks there are. "
                "Set RANK and WORLD_SIZE, or unset it if this is a single process."
            )
    return World(local_rank=0)


def _refuse_contradiction(world: World, variables: Variables) -> None:
    """Refuse RANK and WORLD_SIZE that were exported for all processes of another launcher.

    A process may start several ranks, so with RANK a larger WORLD_SIZE than the launcher's is fine.
    """
    if world.launcher == "slurm":
        size = variables.number("WORLD_SIZE", 1)
        if size not in {None, world.size}:
            raise InvalidWorld(
                f"WORLD_SIZE={size}, but SLURM_STEP_NUM_TASKS={world.size}. "
                "Unset WORLD_SIZE, or set RANK too."
            )
    index = variables.number("JOB_COMPLETION_INDEX") or 0
    if world.launcher == "kubernetes" and world.size > 1 and world.rank < index:
        raise InvalidWorld(
            f"RANK={world.rank} contradicts JOB_COMPLETION_INDEX={index}. "
            "Unset RANK, or let each pod set it from its index: the manifest has it for all pods."
        )
    if world.launcher != "env":
        return
    for read in (_of_table, _slurm):
        other = read(variables)
        if other is None or other.size == 1:
            continue
        if world.size < other.size or (world.size == other.size and world.rank != other.rank):
            rank, size_name = _VARIABLES[other.launcher]
            raise InvalidWorld(
                f"RANK={world.rank} of WORLD_SIZE={world.size} contradicts "
                f"{rank}={other.rank} of {size_name}={other.size}. Unset RANK and WORLD_SIZE: "
                "a shell or a batch script has exported them for all ranks."
            )


def _environment(variables: Variables) -> World | None:
    """Read RANK and WORLD_SIZE, set by torchrun or by hand; they win under srun, too."""
    rank = variables.number("RANK")
    if rank is None:
        return None
    size = variables.required("WORLD_SIZE", because="RANK", remedy="Set it to the number of ranks")
    local_world_size = variables.number("LOCAL_WORLD_SIZE", 1)
    return World(
        rank=rank,
        size=size,
        local_rank=variables.number("LOCAL_RANK"),
        local_world_size=local_world_size,
        node_rank=variables.number("GROUP_RANK"),
        node_count=size // local_world_size if local_world_size else None,
        launcher=_launcher_of_rank(variables),
    )


def _launcher_of_rank(variables: Variables) -> str:
    """Return who has set RANK; a Job that passes its index in for torch sets it, too."""
    if "TORCHELASTIC_RUN_ID" in variables:
        return "torchrun"
    return "kubernetes" if "JOB_COMPLETION_INDEX" in variables else "env"


def _kubernetes(variables: Variables) -> World | None:
    """Read an Indexed Job's index; the Job must pass in how many there are."""
    rank = variables.number("JOB_COMPLETION_INDEX")
    if rank is None:
        return None
    size = variables.required(
        "WORLD_SIZE", because="JOB_COMPLETION_INDEX", remedy="Set it to the Job's completions"
    )
    return World(rank=rank, size=size, launcher="kubernetes")


def _slurm(variables: Variables) -> World | None:
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
    return World(
        rank=rank,
        size=size,
        local_rank=variables.number("SLURM_LOCALID"),
        local_world_size=tasks_on_node(variables),
        node_rank=variables.number("SLURM_NODEID"),
        node_count=variables.number("SLURM_STEP_NUM_NODES", 1),
        launcher="slurm",
        master_addr=host_of_step(variables),
        master_port=port_of_step(variables),
    )


def _of_table(variables: Variables) -> World | None:
    """Read the variables of the first launcher of the table that has set its rank."""
    for launcher in LAUNCHERS:
        rank = variables.number(launcher.rank)
        if rank is None:
            continue
        size = variables.required(
            launcher.size,
            because=launcher.rank,
            remedy=f"Start the command with {launcher.command}",
        )
        # srun, too, sets PMI's variables, and says more.
        step = _slurm(variables)
        if step is not None and (step.rank, step.size) == (rank, size):
            return step
        return World(
            rank=rank,
            size=size,
            local_rank=variables.number(launcher.local_rank),
            local_world_size=variables.number(launcher.local_size, 1),
            launcher=launcher.name,
            # In an allocation of SLURM mpirun begins with the first node.
            master_addr=first_host(variables.text("SLURM_JOB_NODELIST")),
            master_port=port_of_step(variables, step=0) if "SLURM_JOB_ID" in variables else None,
        )
    return None


_READERS: tuple[Callable[[Variables], World | None], ...] = (
    _environment,
    _kubernetes,
    _of_table,
    _slurm,
)


def _host(environ: Mapping[str, str]) -> str:
    """Return this host's name; before a pod's name its node, if the Job passes that in."""
    node = environ.get("STEP37_NODE_NAME")
    return f"{node}/{socket.gethostname()}" if node else socket.gethostname()
