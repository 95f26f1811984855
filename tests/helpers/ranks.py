"""Real rank processes: the command or the library in each, forked from a process that has torch imported.

Importing torch takes seconds, forking milliseconds; each rank has its own interpreter state,
environment, signals and output.
"""

import multiprocessing
import os
import pickle
import random
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

PATIENCE = 240.0  # s for whatever must come: starved processors make everything late
# Open MPI asks for both
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "torch.distributed",
        "step37_flickr8k.job.warmup",
        "step37_flickr8k.report.model",
        "step37_flickr8k.hub.client",
        "tests.helpers.ranks",
    ]
)


def torchrun(size: int) -> list[str]:
    """Return torchrun for ``size`` ranks on this machine, as a run with an id of its own.

    Unlike ``--standalone`` it is given addresses alone: torchrun hangs where the machine's own name
    doesn't resolve.
    """
    meeting = [
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
        "--local-addr=127.0.0.1",
        f"--rdzv-id={uuid.uuid4()}",
    ]
    return [sys.executable, "-m", "torch.distributed.run", *meeting, f"--nproc-per-node={size}"]


def free_port() -> int:
    """Find a port below the ones that connections come from: there a client that comes early may connect to itself."""
    for port in random.sample(range(15000, 30000), 100):
        with suppress(OSError), socket.create_server(("", port)):
            return port
    raise OSError("no port is free")


def _become(
    target: Callable[..., Any],
    out: Path,
    environment: Mapping[str, str],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    target(*arguments)


def command(arguments: list[str]) -> None:
    """Be the command."""
    from step37_flickr8k import cli

    sys.argv = ["step37-flickr8k", *arguments]
    cli.main()


def in_group(
    rank: int, size: int, meeting: str, result: str, call: Callable[..., Any], arguments: Any
) -> None:
    """Be a rank of an initialised gloo group that calls ``call(rank, arguments)`` and keeps what came out."""
    import torch.distributed as dist

    timeout = timedelta(seconds=float(os.environ.get("GROUP_TIMEOUT", PATIENCE)))
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=size, timeout=timeout
    )
    try:
        outcome: Any = call(rank, arguments)
    except Exception as error:  # noqa: BLE001 - an outcome like any other
        outcome = error
    Path(result).write_bytes(pickle.dumps(outcome))
    dist.barrier()
    dist.destroy_process_group()


class Ranks:
    """A job's processes; ``wait`` gives their exit codes, -N for signal N. ``parents`` may start processes of their own."""

    def __init__(
        self,
        size: int,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        *,
        parents: bool = False,
    ) -> None:
        self.size = size
        self.parents = parents
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.environment = dict(os.environ) | dict(environment or {})
        self.processes: dict[int, Any] = {}

    def _start(
        self,
        rank: int,
        target: Callable[..., Any],
        environment: Mapping[str, str],
        arguments: tuple[Any, ...],
    ) -> None:
        process = _context.Process(
            target=_become,
            args=(target, self.out(rank), environment, arguments),
            daemon=not self.parents,
        )
        process.start()
        self.processes[rank] = process

    def start_command(self, rank: int, *arguments: str, **environment: str) -> None:
        """Start (or start anew) a rank of the command under plain launcher variables."""
        self.start_program(rank, command, list(arguments), **environment)

    def start_program(
        self, rank: int, target: Callable[..., Any], *arguments: Any, **environment: str
    ) -> None:
        """Start (or start anew) a rank of any program under plain launcher variables."""
        place = {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.port),
        }
        self._start(rank, target, self.environment | place | environment, arguments)

    def start_all(self, *arguments: str, **environment: str) -> "Ranks":
        for rank in range(self.size):
            self.start_command(rank, *arguments, **environment)
        return self

    def start_group(self, call: Callable[..., Any], arguments: Any, **environment: str) -> "Ranks":
        """Start all ranks of a gloo group; ``outcomes`` gives what came out of each."""
        meeting = f"file://{self.directory}/meeting-{self.port}"
        for rank in range(self.size):
            target_arguments = (
                rank,
                self.size,
                meeting,
                str(self.directory / f"result-{rank}"),
                call,
                arguments,
            )
            self._start(rank, in_group, self.environment | environment, target_arguments)
        return self

    def out(self, rank: int) -> Path:
        return self.directory / f"rank-{rank}.log"

    def log(self, rank: int) -> str:
        return self.out(rank).read_text(encoding="utf-8") if self.out(rank).exists() else ""

    def until_logged(self, rank: int, text: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log(rank):
            assert time.monotonic() < deadline, (
                f"rank {rank} never said {text!r}:\n{self.log(rank)}"
            )
            time.sleep(0.02)

    def signal(self, rank: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.processes[rank].pid, number)

    def wait(self, seconds: float = PATIENCE) -> dict[int, int]:
        deadline = time.monotonic() + seconds
        for rank, process in self.processes.items():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                logs = "\n".join(f"--- rank {r}\n{self.log(r)}" for r in self.processes)
                self.end()
                raise AssertionError(f"rank {rank} hangs:\n{logs}")
        return {rank: process.exitcode for rank, process in self.processes.items()}

    def outcomes(self, seconds: float = PATIENCE) -> list[Any]:
        self.wait(seconds)
        return [
            pickle.loads((self.directory / f"result-{rank}").read_bytes())
            for rank in range(self.size)
        ]

    def end(self) -> None:
        for process in self.processes.values():
            if process.is_alive():
                process.kill()
                process.join()
