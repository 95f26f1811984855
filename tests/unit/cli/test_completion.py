"""Shell completion: what a shell offers at a press of Tab."""

import shutil
import subprocess

import pytest

from step37_flickr8k import cli
from step37_flickr8k.cli.commands import COMMANDS, SHELLS
from tests.helpers.ranks import PATIENCE


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the command prints for a shell."""
    assert cli.run(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("step37-flickr8k sta", ["status"]),
        ("step37-flickr8k status --ch", ["--check"]),
        ("step37-flickr8k plan --heartbeat", []),
        ("step37-flickr8k warmup --tok", ["--token-file"]),
        ("step37-flickr8k warmup --log-level d", ["debug"]),
        ("step37-flickr8k warmup --cache-dir -", []),
        ("step37-flickr8k completion f", ["fish"]),
    ],
)
def test_bash_completes_commands_flags_and_values(
    typed: str, offered: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A hidden flag isn't offered; where a file may stand, bash goes on by itself."""
    words = typed.split()
    line = " ".join(f"'{word}'" for word in words)
    asked = (
        f"{script('bash', capsys)}\n"
        f"COMP_WORDS=({line}) COMP_CWORD={len(words) - 1}\n"
        "_step37_flickr8k\nprintf '%s\\n' \"${COMPREPLY[@]-}\"\n"
    )
    done = subprocess.run(
        ["bash", "-u", "-c", asked], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.split() == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_takes_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command is in it, on lines of its own; a shell that is installed reads it."""
    said = script(shell, capsys)
    assert "\\u" not in said
    assert all(command.name in said for command in COMMANDS)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=said, text=True, timeout=PATIENCE, check=True)
    assert ("bashcompinit" in said) == (shell == "zsh")
    assert ("complete -c step37-flickr8k -n" in said) == (shell == "fish")
