"""Every command and every Python block that README.md and docs/ show is run: here, or by a suite that is named, or it is listed.

A page is a session: its commands and blocks run in their order in one shell, in a directory of
their own, against a local Hub. Two lists of exceptions: docs/not-run.txt (``COMMAND  # reason``)
and docs/run-elsewhere.txt (``COMMAND  # FILE: text in it``).
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.cli.parser import build_parser
from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw
from tests.helpers.ranks import free_port

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = {
    str(file.relative_to(ROOT)): file
    for file in [ROOT / "README.md", *sorted(DOCS.glob("**/*.md"))]
}
_BLOCK = re.compile(r'^```(\w*)(?: title="(\S+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)
_COMMENT = re.compile(r"\s{2,}#.*")
# The directories of the documents: each session has its own
_OURS = re.compile(r"(?<![\w.])/(lustre|data|scratch)\b")
_PORTS = re.compile(r"\b800[01]\b")
# The reader's own
_TEMPLATE = 'template = lambda dialog: {"tokens": dialog, "loss_mask": [], "image_paths": []}\n'


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is to be, if it has a title, and what it holds."""

    language: str
    file: str
    content: str

    @property
    def printed(self) -> list[str]:
        """What stands between the commands."""
        rest = _COMMAND.sub("", self.content) if self.language == "console" else ""
        return [line for line in rest.splitlines() if line]

    @property
    def commands(self) -> list[str]:
        """The commands behind the prompts; what stands between them is what they print."""
        if self.language != "console":
            return []
        return [
            _COMMENT.sub("", command).replace("\\\n", " ").strip()
            for command in _COMMAND.findall(self.content)
        ]


def blocks(document: Path) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(document.read_text(encoding="utf-8"))]


def comparable(text: str) -> str:
    """Leave out what differs from run to run: commits, sizes and rates (the encoder's and the machine's), times; counts stay."""
    return re.sub(r"\b[0-9a-f]{40}\b|[\d.,]+ (?:[kM]B|s)\b", "#", text)


def plain(command: str) -> str:
    return " ".join(command.split())


def listed(name: str) -> dict[str, str]:
    """Give the commands of a list with what is said of each."""
    lines = (DOCS / name).read_text(encoding="utf-8").splitlines()
    return {
        plain(command): said.strip()
        for command, _, said in (line.partition("  # ") for line in lines if line.strip())
    }


NOT_RUN, ELSEWHERE = listed("not-run.txt"), listed("run-elsewhere.txt")
SHOWN = {
    name: [plain(command) for block in blocks(file) for command in block.commands]
    for name, file in DOCUMENTS.items()
}


@dataclass(frozen=True)
class Session:
    """Where the commands of a page run, and what its names mean there."""

    directory: Path
    hub: LocalHub
    ports: dict[str, str]

    def meant(self, text: str) -> str:
        """Put this session's directories, ports and Hub in place of the documents'."""
        text = _OURS.sub(rf"{self.directory}/\1", text).replace("0.0.0.0", "127.0.0.1")
        text = text.replace("https://mirror.example.com", self.hub.endpoint).replace(
            "/home/you/here", str(self.directory / "work")
        )
        return _PORTS.sub(lambda port: self.ports[port[0]], text)

    def script(self, page: list[Block]) -> str:
        """Write the page's files; give the shell script of its commands and Python blocks."""
        lines = [
            "set -eE",
            "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT",
            "trap 'echo \"failed: $BASH_COMMAND\"' ERR",
        ]
        for number, block in enumerate(page):
            if block.file or block.language == "python":
                file = self.directory / "work" / (block.file or f"block-{number}.py")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(
                    self.meant("" if block.file else _TEMPLATE) + self.meant(block.content),
                    encoding="utf-8",
                )
            commands = (
                [f"python block-{number}.py"]
                if block.language == "python" and not block.file
                else block.commands
            )
            for command in commands:
                if plain(command) not in NOT_RUN | ELSEWHERE:
                    lines += [*self._lines(self.meant(command))]
        return "\n".join(lines)

    def run(self, script: str) -> tuple[int, str]:
        """Give the exit code of a script, and all that it said."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        its_own = {
            "HOME": str(self.directory / "home"),
            "PATH": path,
            "HF_ENDPOINT": self.hub.endpoint,
            "OMP_NUM_THREADS": "1",
        }
        ways: dict[str, Any] = {
            "cwd": self.directory / "work",
            "env": os.environ | its_own,
            "start_new_session": True,
        }
        said: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }
        with subprocess.Popen(["bash", "-c", script], **ways, **said) as shell:
            try:
                text, _ = shell.communicate(timeout=560)
            finally:
                if shell.poll() is None:
                    os.killpg(shell.pid, signal.SIGKILL)
        return shell.returncode, text

    @staticmethod
    def _lines(command: str) -> Iterator[str]:
        """Let a command that fails end the session; a server stays, as in a terminal of its own."""
        if command.startswith("step37-flickr8k hub "):
            yield f"{command} &"
            port = re.search(r"--port (\d+)", command)
            up = f"(: </dev/tcp/127.0.0.1/{port[1]}) 2>/dev/null" if port else ":"
            yield f"until {up}; do kill -0 $! || exit 1; sleep 0.1; done"
        else:
            yield command
            yield "[ $? = 0 ]"  # what fails before && doesn't end a shell by itself


@pytest.fixture
def session(draw: Draw, tmp_path: Path) -> Iterator[Session]:
    """Make a directory that looks like the documents' machine, with a dataset of two splits, and a Hub that serves it."""
    directory = tmp_path / "machine"
    for name in ("data", "home", "lustre/team", "scratch", "work"):
        (directory / name).mkdir(parents=True)
    for name in ("demo", "examples"):
        (directory / "work" / name).symlink_to(ROOT / name)
    draw(12)
    shutil.copytree(draw(6, split="validation"), directory / "data" / "flickr8k")
    with LocalHub(directory / "data" / "flickr8k") as hub:
        yield Session(directory, hub, {port: str(free_port()) for port in ("8000", "8001")})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, file in DOCUMENTS.items() if blocks(file)])
def test_what_a_page_shows_works(name: str, session: Session) -> None:
    """Its commands and Python blocks, in one shell, end with 0 and print what it shows, but for those that are listed."""
    page = blocks(DOCUMENTS[name])
    script = session.script(page)
    code, said = session.run(script)
    numbered = "\n".join(f"{number:3} {line}" for number, line in enumerate(script.splitlines(), 1))
    assert code == 0, f"{numbered}\n{said}"
    if name != "README.md":  # what it shows is of a cluster
        expected = {comparable(session.meant(line)) for block in page for line in block.printed}
        assert expected <= {comparable(line) for line in said.splitlines()}


def test_no_list_of_exceptions_holds_what_nobody_shows() -> None:
    """Each line is a command of some page, in one list alone, with what is said of it."""
    shown = {command for commands in SHOWN.values() for command in commands}
    assert not (NOT_RUN | ELSEWHERE).keys() - shown
    assert not NOT_RUN.keys() & ELSEWHERE.keys()
    assert all((NOT_RUN | ELSEWHERE).values())


@pytest.mark.parametrize("command", ELSEWHERE)
def test_what_runs_elsewhere_is_there(command: str) -> None:
    """The file that is named holds the text that is named."""
    file, _, text = ELSEWHERE[command].partition(": ")
    assert text
    assert text in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_that_the_text_names_are_there(name: str) -> None:
    """In the midst of a sentence, too, a target is one of the Makefile, a subcommand and its flags are the command's own."""
    (group,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = DOCUMENTS[name].read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z][a-z0-9-]*)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for subcommand, rest in re.findall(r"`step37-flickr8k ([a-z]+)([^`]*)`", text):
        assert (
            set(re.findall(r"--[a-z-]+", rest))
            <= group.choices[subcommand]._option_string_actions.keys()
        ), rest


@pytest.mark.parametrize("name", DOCUMENTS)
def test_pages_show_commands_behind_a_prompt(name: str) -> None:
    """A block is of a language that something here looks at; what is meant to be typed stands behind a prompt, and is found."""
    for block in blocks(DOCUMENTS[name]):
        assert block.language in {"console", "python", "yaml", "text", "dockerfile", ""}, block
        assert block.commands or block.language != "console", block
        assert not _COMMAND.search(block.content) or block.language == "console", block
        # A command of its page uses a settings file; tests/k8s/test_k8s.py reads the manifests
        if block.language == "yaml":
            assert block.file or re.match(r"# k8s/|replicatedJobs:", block.content), block
