"""Rank, size and node of this process, from the launcher's variables."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from step37_flickr8k.errors import InvalidWorld

__all__ = ["World"]


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place in the job; what the launcher doesn't say is None.

    ``run`` names the run of a job that this is, the same on all its ranks and after restarts; ``agent_store`` says that
    torchrun's agent serves the store at ``master_addr``, not rank 0.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int | None = None
    node: int | None = None
    nodes: int | None = None
    launcher: str = "none"
    run: str | None = None
    master_addr: str | None = None
    master_port: int | None = None
    agent_store: bool = False
    host: str = field(default_factory=socket.gethostname)

    def __post_init__(self) -> None:
        """Refuse ranks outside of the world."""
        if not (0 <= self.rank < self.size and self.local_rank >= 0):
            raise InvalidWorld(
                f"rank {self.rank} (local rank {self.local_rank}) of {self.size} can't be: "
                f"the {self.launcher} variables contradict each other, start it with the launcher alone"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "World":
        """Read the variables of torchrun (or set by hand), Kubernetes, a SLURM step or Open MPI; none is rank 0 of 1.

        Half-set variables raise `InvalidWorld`: a rank that takes itself for rank 0 of 1 downloads beside all others.
        """
        number = _Numbers(environ)
        where = {
            "run": _run(environ),
            "master_addr": environ.get("MASTER_ADDR") or None,
            "master_port": number.get("MASTER_PORT", 1, 65535),
            "agent_store": environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            "host": _host(environ),
        }
        for read in (_plain, _kubernetes, _slurm, _open_mpi):
            if place := read(environ, number):
                return cls(**place, **where)  # type: ignore[arg-type]
        size = number.get("WORLD_SIZE", 1)
        if "LOCAL_RANK" in environ or (size is not None and size > 1):
            found = "LOCAL_RANK" if "LOCAL_RANK" in environ else f"WORLD_SIZE={size}"
            raise InvalidWorld(f"{found} is set without RANK: set it too, or start it with torchrun, srun or mpirun")
        return cls(**where)  # type: ignore[arg-type]

    def rendezvous(self) -> tuple[str, int]:
        """Give the address of the store; raises `InvalidWorld` naming what is missing."""
        if self.master_addr is None or self.master_port is None:
            missing = "MASTER_ADDR" if self.master_addr is None else "MASTER_PORT"
            raise InvalidWorld(
                f"{self.size} ranks need a meeting point, but {missing} isn't set: set it to rank 0's, on all ranks"
            )
        return self.master_addr, self.master_port

    @property
    def label(self) -> str:
        """Give the place in the few words that begin every line of a log; the node where the launcher says it."""
        node = "" if self.node is None else f" node {self.node}/{'-' if self.nodes is None else self.nodes}"
        return f"{self.host}{node} rank {self.rank}/{self.size}"

    def describe(self) -> str:
        """Give the first line that every rank logs; "-" stands for what the launcher doesn't say."""
        total = {name: "-" if value is None else value for name, value in vars(self).items()}
        return (
            "host {host}, local rank {local_rank} of {local_size}, node {node} of {nodes}, global rank {rank} of {size}".format(
                **total
            )
        )


class _Numbers:
    """The environment's whole numbers."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, name: str, least: int = 0, most: int = 1 << 31) -> int | None:
        text = self._environ.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise InvalidWorld(f"{name}={text!r} is not a whole number from {least} to {most}: correct it, or unset it")
        return int(text)

    def need(self, name: str, because: str, remedy: str, least: int = 0) -> int:
        number = self.get(name, least)
        if number is None:
            raise InvalidWorld(f"{because} is set, but {name} isn't: {remedy}")
        return number


_Place = dict[str, object] | None


def _plain(environ: Mapping[str, str], number: _Numbers) -> _Place:
    """Read RANK and WORLD_SIZE, torchrun's or set by hand; they win under srun, too."""
    if "RANK" not in environ:
        return None
    size = number.need("WORLD_SIZE", "RANK", "set it to the number of ranks", least=1)
    local_size = number.get("LOCAL_WORLD_SIZE", 1)
    return {
        "rank": number.get("RANK"),
        "size": size,
        "local_rank": number.get("LOCAL_RANK") or 0,
        "local_size": local_size,
        "node": number.get("GROUP_RANK"),
        "nodes": size // local_size if local_size else None,
        "launcher": "torchrun" if "TORCHELASTIC_RUN_ID" in environ else "env",
    }


def _kubernetes(_: Mapping[str, str], number: _Numbers) -> _Place:
    """Read an Indexed Job's index; how many there are the Job must pass in."""
    rank = number.get("JOB_COMPLETION_INDEX")
    if rank is None:
        return None
    size = number.need("WORLD_SIZE", "JOB_COMPLETION_INDEX", "set it to the Job's completions", least=1)
    return {"rank": rank, "size": size, "launcher": "kubernetes"}


def _slurm(environ: Mapping[str, str], number: _Numbers) -> _Place:
    """Read a step's variables; a batch script outside srun has SLURM_PROCID=0 and SLURM_NTASKS=4 too, and is one process."""
    if "SLURM_STEP_ID" not in environ or "SLURM_PROCID" not in environ:
        return None
    size = number.need("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "start it with srun", least=1)
    told = number.get("WORLD_SIZE", 1)
    if told not in {None, size}:
        raise InvalidWorld(f"WORLD_SIZE={told}, but SLURM_STEP_NUM_TASKS={size}: unset WORLD_SIZE, or set RANK too")
    return {
        "rank": number.get("SLURM_PROCID"),
        "size": size,
        "local_rank": number.get("SLURM_LOCALID") or 0,
        "node": number.get("SLURM_NODEID"),
        "nodes": number.get("SLURM_STEP_NUM_NODES", 1),
        "launcher": "slurm",
    }


def _open_mpi(_: Mapping[str, str], number: _Numbers) -> _Place:
    """Read mpirun's variables."""
    rank = number.get("OMPI_COMM_WORLD_RANK")
    if rank is None:
        return None
    return {
        "rank": rank,
        "size": number.need("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "start it with mpirun", least=1),
        "local_rank": number.get("OMPI_COMM_WORLD_LOCAL_RANK") or 0,
        "local_size": number.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1),
        "launcher": "openmpi",
    }


def _host(environ: Mapping[str, str]) -> str:
    """Give this host's name; a pod's says nothing of the node that it is on, which the Job passes in."""
    node = environ.get("STEP37_NODE_NAME")
    return f"{node}/{socket.gethostname()}" if node else socket.gethostname()


def _run(environ: Mapping[str, str]) -> str | None:
    if given := environ.get("STEP37_RUN_ID"):
        return given
    if "SLURM_STEP_ID" in environ and "SLURM_JOB_ID" in environ:
        return f"slurm-{environ['SLURM_JOB_ID']}.{environ['SLURM_STEP_ID']}"
    torchrun = environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if torchrun == "none" else f"torchrun-{torchrun}"
