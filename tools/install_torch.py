"""Install torch, as a CPU build where one can be had: the Makefile and the Dockerfile run this before all else.

In this order: the index that ``--index-url`` names, whatever build it has; what pip finds as it is
configured, if that is a CPU build; PyTorch's public index of CPU builds, if it answers; else the
CUDA build that pip finds, after one line that says so. Nothing asks, nothing stops. torch is
installed without its dependencies: an index of torch alone has other versions of them, or none.
They come from the ordinary index, with whatever is installed next. Only a CUDA build's own come
along.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# Seconds until pip must have the metadata, two small files, from PyTorch's index. Where packets are
# dropped silently,
# pip would wait for each of the host's addresses in turn, so the limit is one for all.
CPU_INDEX_TIMEOUT = 30

_CUDA = re.compile(r"(nvidia|cuda|triton)\b", re.IGNORECASE)
_NOT_REACHED = re.compile(
    r"Retrying|Could not fetch URL|Could not install packages due to an OSError"
)


@dataclass(frozen=True)
class Build:
    """A build of torch that pip would install.

    ``version`` is empty if torch is installed already. ``cuda`` holds the requirements that only a
    CUDA build has.
    """

    version: str
    cuda: tuple[str, ...]

    @classmethod
    def from_report(cls, report: dict[str, Any]) -> "Build":
        """Return what pip's installation report says of torch."""
        if not report["install"]:
            return cls("", ())
        (metadata,) = (item["metadata"] for item in report["install"])
        # the same metadata serves macOS, where a marker leaves the CUDA packages out
        linux = report["environment"]["platform_system"] == "Linux"
        requires = metadata.get("requires_dist", []) if linux else []
        return cls(metadata["version"], tuple(line for line in requires if _CUDA.match(line)))


@dataclass(frozen=True)
class Choice:
    """A build, and the index to install it from; an empty one is pip's own."""

    index: str
    build: Build


def choose(named: str, cpu_index: str, look: Callable[[str], Build | None]) -> Choice | None:
    """Return what to install, None if there is no torch; ``look`` asks an index, and returns None if it has none."""
    found = look(named)
    if named or (found and not found.cuda):
        return Choice(named, found) if found else None
    cpu = look(cpu_index)
    if cpu and not cpu.cuda:
        return Choice(cpu_index, cpu)
    return Choice("", found) if found else None


def announcement(choice: Choice, cpu_index: str) -> str:
    """Return the line that says that a CUDA build comes, how large it is, and what would make it smaller."""
    why = (
        f"as {choice.index} has it"
        if choice.index
        else f"since {cpu_index} gave no CPU build of it"
    )
    return (
        f"torch {choice.build.version} comes as a CUDA build, {why}: with NVIDIA's packages about 5.5 GB installed, "
        "a CPU build 0.8 GB. To get one, name an index that has it: make TORCH_INDEX_URL=<address> ..."
    )


class Pip:
    """Pip of the Python that runs this, at work for itself or for another one (``python``)."""

    def __init__(self, requirement: str, python: str) -> None:
        self._command = [
            sys.executable,
            "-m",
            "pip",
            *(["--python", python] if python else []),
            "install",
            "--quiet",
        ]
        self._torch = ["--no-deps", "--requirement", requirement]
        self.errors = ""  # what pip said when it first found nothing

    def look(self, index: str, *options: str, timeout: float | None = None) -> Build | None:
        """Return the build that pip would install from this index, None if it finds none or takes longer than this."""
        with tempfile.TemporaryDirectory() as directory:
            report, errors = Path(directory, "report.json"), Path(directory, "errors")
            command = [
                *self._command,
                "--dry-run",
                *self._torch,
                "--report",
                str(report),
                *options,
                *_from(index),
            ]
            # no pipes: pip for another Python is a process of its own, which would hold them open
            # beyond the timeout
            with errors.open("w") as stream, contextlib.suppress(subprocess.TimeoutExpired):
                if (
                    subprocess.run(
                        command, stdout=stream, stderr=stream, check=False, timeout=timeout
                    ).returncode
                    == 0
                ):
                    return Build.from_report(json.loads(report.read_text(encoding="utf-8")))
            self.errors = self.errors or errors.read_text(encoding="utf-8", errors="replace")
            return None

    def choose(self, named: str, cpu_index: str) -> Choice | None:
        """Return what to install, as ``choose`` decides; PyTorch's index has little time, one that is named as pip is told."""

        def look(index: str) -> Build | None:
            if index != cpu_index or index == named:
                return self.look(index)
            return self.look(index, "--timeout", "10", "--retries", "0", timeout=CPU_INDEX_TIMEOUT)

        return choose(named, cpu_index, look)

    def install(self, choice: Choice, *options: str) -> int:
        """Install this build and what only a CUDA build needs; return pip's exit code."""
        command = [*self._command, *options]
        extra = ["--extra-index-url", choice.index] if choice.index else []
        if choice.build.cuda and (
            code := subprocess.run([*command, *extra, *choice.build.cuda], check=False).returncode
        ):
            return code
        # last: with --no-deps pip doesn't complain about dependencies that are still to come
        return subprocess.run(
            [*command, *self._torch, *_from(choice.index)], check=False
        ).returncode


def _from(index: str) -> list[str]:
    return ["--index-url", index] if index else []


def complaint(errors: str) -> str:
    """Return why there is no torch, from what pip said: one line for a Python without a wheel, else pip's own words."""
    missing = re.search(r"No matching distribution found for (\S+)", errors)
    if not missing or _NOT_REACHED.search(errors):
        return f"{errors}torch isn't installed: pip's words above say why"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"{missing[1]} has no wheel for Python {python} on {sys.platform}; "
        "on Linux there is one for 3.11 to 3.14: make clean demo PYTHON=python3.13"
    )


def main() -> int:
    """Choose, say so where it costs something, and install."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--requirement", required=True, help="file with torch's version, as pip reads it"
    )
    parser.add_argument("--index-url", default="", help="index to take torch from; empty: choose")
    parser.add_argument(
        "--cpu-index", default="", help=f"index of CPU builds, by default {PYTORCH_CPU_INDEX}"
    )
    parser.add_argument(
        "--python",
        default="",
        help="install for this Python; by default for the one that runs this",
    )
    parser.add_argument("pip_options", nargs="*", help="further options of pip install, behind --")
    arguments = parser.parse_args()
    pip, cpu_index = (
        Pip(arguments.requirement, arguments.python),
        arguments.cpu_index or PYTORCH_CPU_INDEX,
    )
    choice = pip.choose(arguments.index_url, cpu_index)
    if not choice:
        print(complaint(pip.errors), file=sys.stderr)
        return 2
    if choice.build.cuda:
        print(announcement(choice, cpu_index), file=sys.stderr, flush=True)
    elif choice.build.version:
        print(
            f"torch {choice.build.version} comes as a CPU build{choice.index and ' from '}{choice.index}",
            flush=True,
        )
    return pip.install(choice, *arguments.pip_options)


if __name__ == "__main__":
    sys.exit(main())
