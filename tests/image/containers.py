"""Containers of the image under test, run by podman, and a network of their own that the machine's never sees."""

import itertools
import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
IMAGE = os.environ.get("IMAGE") or "step37-flickr8k"
BASE_IMAGE = os.environ.get("BASE_IMAGE") or "docker.io/library/python:3.11-slim-bookworm"
# What a cluster with strict pod security leaves a container: no place to write but its volumes, no
# rights.
RESTRICTED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop",
    "all",
    "--security-opt",
    "no-new-privileges",
)
_numbers = itertools.count()


def call(
    *command: str, check: bool = True, seconds: float = 400, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program; a failure shows what it said."""
    configuration = {"CONTAINERS_CONF": str(HERE / "containers.conf")}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env=configuration | dict(os.environ) | environment,
    )
    assert not check or done.returncode == 0, (
        f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done


def podman(
    *arguments: str, check: bool = True, seconds: float = 400
) -> subprocess.CompletedProcess[str]:
    """Run podman."""
    return call("podman", *arguments, check=check, seconds=seconds)


def inspect(image: str) -> Any:
    """Give what podman knows of an image."""
    return json.loads(podman("image", "inspect", image).stdout)[0]


def sizes(image: str = IMAGE) -> dict[str, int]:
    """Give how many bytes each part takes, unpacked: the project, what is above the base, the base, all."""
    steps = [
        step["size"]
        for step in json.loads(podman("history", "--format", "json", image).stdout)
        if step["size"]
    ]
    parts = ("the project", "dependencies", "torch", "bytecode of the interpreter")
    return dict(zip(parts, steps, strict=False)) | {
        "the base": sum(steps[len(parts) :]),
        "all": sum(steps),
    }


@dataclass(frozen=True)
class Container:
    """A container that was started."""

    name: str

    def log(self) -> str:
        """Give what it has said so far."""
        done = podman("logs", self.name, check=False)
        return done.stdout + done.stderr

    def report(self) -> Any:
        """Give the JSON that rank 0 printed."""
        return json.loads(podman("logs", self.name).stdout)

    def until(self, text: str, seconds: float = 240) -> None:
        """Wait until it says something."""
        deadline = time.monotonic() + seconds
        while text not in (log := self.log()):
            assert time.monotonic() < deadline, f"{self.name} never said {text!r}:\n{log}"
            time.sleep(0.1)

    def wait(self, seconds: float = 400) -> int:
        """Wait for its end and give its exit code."""
        return int(podman("wait", self.name, seconds=seconds).stdout)

    def stop(self) -> tuple[int, float]:
        """Stop it as `docker stop` does; give its exit code and how many seconds it took to end."""
        start = time.time()
        podman("stop", "--time", "120", self.name)
        state = json.loads(podman("container", "inspect", self.name).stdout)[0]["State"]
        # Nanoseconds, which Python 3.10 doesn't read
        text, _, fraction = state["FinishedAt"].partition(".")
        ended = (
            datetime.fromisoformat(text + "+00:00").timestamp() + float(f"0.{fraction.rstrip('Z')}")
            if fraction
            else start
        )
        return state["ExitCode"], ended - start


class Containers:
    """Starts containers and removes them all at the end."""

    def __init__(self) -> None:
        self._mark = f"step37.test={os.getpid()}"
        self._started: list[Container] = []

    def _arguments(
        self, command: tuple[str, ...], options: tuple[str, ...], environment: Mapping[str, str]
    ) -> list[str]:
        variables = [
            word for name, value in environment.items() for word in ("--env", f"{name}={value}")
        ]
        return [
            "--label",
            self._mark,
            "--pull",
            "never",
            *RESTRICTED,
            *variables,
            *options,
            IMAGE,
            *command,
        ]

    def run(
        self, *command: str, options: tuple[str, ...] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a container to its end, without a network unless the options name one."""
        network = () if "--network" in options else ("--network", "none")
        return podman(
            "run",
            "--rm",
            *self._arguments(command, (*network, *options), environment),
            check=False,
            seconds=240,
        )

    def start(self, *command: str, options: tuple[str, ...], **environment: str) -> Container:
        """Start a container."""
        name = f"step37-test-{os.getpid()}-{next(_numbers)}"
        podman("run", "--detach", "--name", name, *self._arguments(command, options, environment))
        self._started.append(Container(name))
        return self._started[-1]

    def write_logs(self, directory: Path) -> None:
        """Write what each container that was started has said."""
        for container in self._started:
            (directory / f"{container.name}.log").write_text(container.log(), encoding="utf-8")

    def end(self) -> None:
        """Remove every container that was started."""
        left = podman("ps", "--all", "--quiet", "--filter", f"label={self._mark}").stdout.split()
        if left:
            podman("rm", "--force", "--time", "0", *left)


class Network:
    """Network namespaces with an address each, joined by a bridge in one more namespace."""

    def __init__(self) -> None:
        self._name = f"step37-{os.getpid()}-{next(_numbers)}"
        self._made: list[str] = []
        self._switch = self._namespace("switch")
        call("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        call("ip", "-n", self._switch, "link", "set", "bridge", "up")

    def _namespace(self, name: str) -> str:
        full = f"{self._name}-{name}"
        call("ip", "netns", "add", full)
        self._made.append(full)
        call("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def place(self, name: str, address: str, *, unreachable: str = "") -> tuple[str, str]:
        """Make a place for one container and give the options that put it there."""
        full = self._namespace(name)
        peer = ("peer", "name", "eth0", "netns", full)
        call("ip", "-n", self._switch, "link", "add", name, "type", "veth", *peer)
        call("ip", "-n", self._switch, "link", "set", name, "master", "bridge", "up")
        call("ip", "-n", full, "address", "add", f"{address}/24", "dev", "eth0")
        call("ip", "-n", full, "link", "set", "eth0", "up")
        if unreachable:
            call("ip", "-n", full, "route", "add", "unreachable", f"{unreachable}/32")
        return "--network", f"ns:/run/netns/{full}"

    def end(self) -> None:
        """Remove every namespace, and with it what is in it."""
        for name in self._made:
            call("ip", "netns", "delete", name)
