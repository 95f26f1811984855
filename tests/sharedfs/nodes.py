"""Nodes: real ranks, each of which sees the shared directory through the mount of its own node, at one path for all."""

import ctypes
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.ranks import PATIENCE, Ranks

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWNET = 0x20000, 0x4000000, 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 1 << 12, 1 << 14, 1 << 18
# With a signal's name: the process gets it when its parent ends, however that ends
LEASHED = ("setpriv", "--pdeathsig")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node: its mount of the shared directory, its host name, and what else is its own.

    ``network`` is the file of a network namespace, ``user`` the uid that ranks have there,
    ``read_only`` how they see the directory.
    """

    name: str
    mount: Path
    network: str = ""
    user: int = 0
    read_only: bool = False


def _call(function: str, *arguments: Any) -> None:
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def own_mounts() -> None:
    """Give this process mounts of its own: what it mounts nobody else sees, and its end unmounts it."""
    _call("unshare", _CLONE_NEWNS)
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


def enter(node: Node, shared: str) -> None:
    """Be on the node: its mount at ``shared``, its name, network and user."""
    own_mounts()
    _call("unshare", _CLONE_NEWUTS)
    _call("sethostname", node.name.encode(), len(node.name))
    if node.network:
        with Path(node.network).open("rb") as network:
            _call("setns", network.fileno(), _CLONE_NEWNET)
    _call("mount", os.fsencode(node.mount), os.fsencode(shared), None, _MS_BIND, None)
    if node.read_only:
        _call("mount", None, os.fsencode(shared), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None)
    if node.user:
        # They may lie where only root may read
        for late in (
            "_strptime",
            "encodings.idna",
            "encodings.utf_8_sig",
            "resource",
            "step37_flickr8k.cli.warmup_job",
            "step37_flickr8k.download.bulk",
            "step37_flickr8k.hub.client",
        ):
            importlib.import_module(late)
        os.setgroups([])
        os.setresgid(node.user, node.user, node.user)
        os.setresuid(node.user, node.user, node.user)


def _on_node(
    node: Node, shared: str, target: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    enter(node, shared)
    target(*arguments)


class NodeRanks(Ranks):
    """A job with one rank per node; all are given the same ``cache_dir`` below ``shared``."""

    def __init__(
        self,
        nodes: Sequence[Node],
        shared: Path,
        directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(len(nodes), directory, environment)
        self.nodes = nodes
        self.shared = shared

    def _start(
        self,
        rank: int,
        target: Callable[..., Any],
        environment: Mapping[str, str],
        arguments: tuple[Any, ...],
    ) -> None:
        there = (self.nodes[rank], str(self.shared), target, arguments)
        super()._start(rank, _on_node, environment, there)

    @property
    def logs(self) -> str:
        return "\n".join(f"--- rank {rank}\n{self.log(rank)}" for rank in range(self.size))

    def last_words(self) -> list[str]:
        """Give the last line that each rank logged as an error."""
        lines = [
            [line for line in self.log(rank).splitlines() if " ERROR " in line]
            for rank in range(self.size)
        ]
        return [errors[-1] if errors else "" for errors in lines]


class LatentMount:
    """A running ``latentfs.py``: one node's mount of the backing directory, whose faults can be changed at any time."""

    def __init__(self, backing: Path, mount: Path, *options: str) -> None:
        self.mount = mount
        self.log = mount.with_suffix(".log")
        self._control = mount.with_suffix(".json")
        self.faults()
        mount.mkdir()
        script = str(Path(__file__).with_name("latentfs.py"))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *LEASHED,
                    "KILL",
                    sys.executable,
                    script,
                    str(backing),
                    str(mount),
                    "--control",
                    str(self._control),
                    *options,
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE
        while not os.path.ismount(mount):
            assert self._process.poll() is None, (
                f"latentfs ended: {self.log.read_text(encoding='utf-8')}"
            )
            assert time.monotonic() < deadline, "latentfs doesn't mount"
            time.sleep(0.02)

    def faults(self, **said: Any) -> None:
        """Let these faults, and no others, happen from now on."""
        new = self._control.with_suffix(".new")
        new.write_text(json.dumps(said), encoding="utf-8")
        new.replace(self._control)

    def happened(self, error: str, path: str = "") -> int:
        """Count the faults so far that gave this error on a path that holds these words."""
        said = [
            line.split(maxsplit=2) for line in self.log.read_text(encoding="utf-8").splitlines()
        ]
        return sum(words[0] == error and path in words[-1] for words in said if words)

    def end(self) -> None:
        """Unmount, whatever still uses it."""
        with suppress(subprocess.SubprocessError):
            subprocess.run(["umount", "--lazy", self.mount], check=False, timeout=10)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
