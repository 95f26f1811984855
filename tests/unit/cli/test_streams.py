"""Streams that take ASCII alone, nothing, or aren't there: every command ends as it should."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from step37_flickr8k import cli
from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw
from tests.helpers.ranks import PATIENCE

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
STREAMS: dict[str, Mapping[str, str]] = {
    "C": ASCII,
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "strict": {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "1"},
    "latin": {"PYTHONIOENCODING": "latin-1"},
    "utf-8": {"PYTHONUTF8": "1"},
    "none": {"LC_ALL": "no_SUCH.locale", "TZ": "no/Such", "PYTHONUTF8": "0"},
}
NAMES = {"text": "donn\u00e9es \U0001f4f7", "bytes": "donn\udce9es"}
TABLES = {"doctor", "plan"}  # which print a table, and lines
COMMANDS = {
    "warmup": [],
    "plan": [],
    "status": [],
    "doctor": [],
    "verify": [],
    "settings": [],
    "preview": ["--output", "{cache}.html", "--png", "{cache}.png"],
}


def command(*arguments: str, shell: str = '"$@"', **environment: str) -> tuple[int, bytes, bytes]:
    """Run the command in a shell line; return its exit code and what it wrote."""
    done = subprocess.run(
        ["bash", "-c", shell, "sh", sys.executable, "-m", "step37_flickr8k", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def warm(hub: LocalHub, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Fill a cache directory with a name that not every stream can take."""
    assert hub.commit
    cache = tmp_path / NAMES[request.param]
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    return cache


@pytest.mark.parametrize("warm", NAMES, indirect=True)
def test_every_command_writes_what_its_stream_cannot_take_with_escapes(warm: Path) -> None:
    """Whatever the encoding of stdout, and whatever the name of the directory, the code is 0."""
    for stream, environment in STREAMS.items():
        for name, more in COMMANDS.items():
            if stream != "C" and name not in TABLES:
                continue
            arguments = [part.format(cache=warm) for part in more]
            code, out, error = command(name, "--cache-dir", str(warm), *arguments, **environment)
            assert code == 0, (stream, name, error)
            assert b"Traceback" not in error, (stream, name)
            assert b"internal error" not in error, (stream, name)
            if stream in {"C", "ascii", "strict"}:
                assert (out + error).isascii(), (stream, name)


def test_a_cold_warmup_under_an_ascii_locale(hub: LocalHub, tmp_path: Path) -> None:
    """The directory gets the very bytes that the shell passed, workers included."""
    assert hub.commit
    cache = tmp_path / NAMES["text"]
    code, out, error = command("doctor", "--cache-dir", str(cache), **ASCII)
    assert code == 0, error
    assert b"this process writes names in ascii" in out
    code, out, error = command("warmup", "--cache-dir", str(cache), **ASCII)
    assert code == 0, error
    assert (cache / "train" / "0000.jpg").exists()
    assert b'"ok": true' in out


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ('"$@" </dev/null <&-', 0),
        ('"$@" 2>&-', 0),
        ('"$@" <&- >&- 2>&-', 0),
        ('"$@" 2>/dev/full', 0),
        ('"$@" >/dev/full 2>/dev/full', 75),
    ],
)
def test_streams_that_are_closed_or_full(
    hub: LocalHub, tmp_path: Path, shell: str, code: int
) -> None:
    """No file of the cache takes the number of a closed stream, and no exit code changes."""
    assert hub.commit
    cache = str(tmp_path / "cache")
    assert command("warmup", "--cache-dir", cache, "--log-level", "debug", shell=shell)[0] == 0
    assert command("verify", "--cache-dir", cache, shell=shell)[0] == code
    assert command("status", "--cache-dir", cache, shell=shell)[0] == code
    assert command("plan", "--cache-dir", cache, "--split", "none", shell=shell)[0] == 2
    assert command("plan", "--split", "a/b", shell=shell)[0] == 2


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["warmup", "--help"]])
def test_help_that_nobody_reads_is_no_failure(arguments: list[str]) -> None:
    """A pager that was left early, or a full disk, doesn't change the exit code of --help."""
    for shell in ('set -o pipefail; "$@" | true', '"$@" >/dev/full', '"$@" >&-'):
        code, _, error = command(*arguments, shell=shell)
        assert (code, error) == (0, b""), shell
    assert command("warmup", "--nonsense")[0] == 2


@pytest.mark.parametrize(
    "stderr", ["/dev/full", "&-", " >(exit 0)"], ids=["full", "closed", "pipe"]
)
def test_a_stderr_that_takes_nothing_leaves_the_outcome(
    hub: LocalHub, cache: Path, stderr: str
) -> None:
    """What can't be logged changes neither a success nor a failure."""
    shell = f'"$@" 2>{stderr} >/dev/null'
    assert (
        command("warmup", "--cache-dir", str(cache), shell=shell, HF_ENDPOINT=hub.endpoint)[0] == 0
    )
    assert command("warmup", "--bogus", shell=shell)[0] == 2


def test_a_hub_serves_whatever_its_stderr_takes(draw: Draw) -> None:
    """A full disk under its log is no reason to end."""
    hub = [sys.executable, "-m", "step37_flickr8k", "hub", str(draw(1))]
    with subprocess.Popen(
        ["bash", "-c", 'exec "$@" 2>/dev/full', "sh", *hub], stdout=subprocess.PIPE
    ) as serving:
        assert serving.stdout is not None
        assert serving.stdout.readline().startswith(b"export HF_ENDPOINT=http")
        serving.terminate()
        assert serving.wait(PATIENCE) == 0
