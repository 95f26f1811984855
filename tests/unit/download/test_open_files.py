"""The limit of open files: raised by the command, kept by the library, never met in the middle."""

import asyncio
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from step37_flickr8k import cli
from step37_flickr8k.download.open_files import connections_allowed, within_limit
from step37_flickr8k.hub.client import ForApi, connected
from step37_flickr8k.hub.retry import GivenUp, Unreachable
from step37_flickr8k.hub.source import Source
from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.settings.options import FetchOptions
from tests.conftest import Draw
from tests.helpers.ranks import PATIENCE

COUNT = 300  # images, all of which are on their way at once
NOFILE = resource.RLIMIT_NOFILE


@pytest.fixture
def wide(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Serve many images slowly."""
    with LocalHub(draw(COUNT)) as serving:
        serving.faults.add(Fault.delay(0.3, path=r"train/\d+.jpg"))
        monkeypatch.setenv("HF_ENDPOINT", serving.endpoint)
        yield serving


@pytest.fixture
def few() -> Iterator[int]:
    """Lower this process's soft limit, as a login shell or a site does."""
    before = resource.getrlimit(NOFILE)
    resource.setrlimit(NOFILE, (256, before[1]))
    yield 256
    resource.setrlimit(NOFILE, before)


# Processes of their own: the Hub's connections, in this one, would count against the limit too.
LIBRARY = """
import resource, sys
from step37_flickr8k import prepare_flickr8k_samples
print(len(prepare_flickr8k_samples(sample_count=None, cache_dir=sys.argv[1])))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
# Takes all that may be open but a few, after a call that has imported whatever is needed.
NEARLY_NONE = """
import os, resource, sys
from step37_flickr8k import errors, prepare_flickr8k_samples
prepare_flickr8k_samples(cache_dir=sys.argv[1] + "/first")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for left in range(14):
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(left):
        os.close(taken.pop())
    try:
        prepare_flickr8k_samples(cache_dir=sys.argv[1] + "/" + str(left))
        print("ready")
    except Exception as error:
        print(errors.exit_code_of(error), " ".join(str(error).split()))
    for each in taken:
        os.close(each)
"""


def run(cache: Path, soft: int, hard: int) -> "subprocess.CompletedProcess[str]":
    """Run the command with the highest concurrency under limits of open files."""
    arguments = ["warmup", "--cache-dir", str(cache), "--concurrency", "1024"]
    return limited(["-m", "step37_flickr8k", *arguments, "--fetch-mode", "files"], soft, hard)


def limited(arguments: list[str], soft: int, hard: int) -> "subprocess.CompletedProcess[str]":
    """Run Python under limits of open files."""
    return subprocess.run(
        [sys.executable, *arguments],
        preexec_fn=lambda: resource.setrlimit(NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_command_raises_its_soft_limit(wide: LocalHub, cache: Path) -> None:
    """With a soft limit of 256 and a concurrency of 1,024 every file comes, without a retry."""
    assert wide.commit
    done = run(cache, 256, 4096)
    assert done.returncode == 0, done.stderr
    assert f"ready: {COUNT} rows" in done.stderr
    assert '"retries": {}' in done.stdout
    assert "ulimit" not in done.stderr


def test_below_the_hard_limit_the_concurrency_gives_way(wide: LocalHub, cache: Path) -> None:
    """Where the hard limit is low, too, a warning names the concurrency that is used."""
    assert wide.commit
    done = run(cache, 256, 256)
    assert done.returncode == 0, done.stderr
    assert '"retries": {}' in done.stdout
    assert "instead of 1024, because this process may open no more files (ulimit -n)" in done.stderr


def test_the_library_leaves_the_limit_as_it_is(
    wide: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user's process nothing is raised: the concurrency is lowered, with a warning."""
    assert wide.commit
    monkeypatch.setenv("STEP37_CONCURRENCY", "1024")
    done = limited(["-c", LIBRARY, str(cache)], 256, resource.getrlimit(NOFILE)[1])
    assert done.stdout.split() == [str(COUNT), "256"], done.stderr
    assert "concurrency is " in done.stderr


def test_a_limit_that_is_met_is_named_wherever_that_is(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a few files left, or none: 75 and the limit by name, at the network as in the cache."""
    assert hub.commit
    monkeypatch.setenv("STEP37_ATTEMPTS", "1")
    done = limited(["-c", NEARLY_NONE, str(cache)], *resource.getrlimit(NOFILE))
    lines = done.stdout.splitlines()
    assert len(lines) == 14, done.stderr
    failed = [line for line in lines if line != "ready"]
    assert len(failed) > 2
    assert all(line.startswith("75 ") and "raise ulimit -n" in line for line in failed), lines
    assert not any("HF_ENDPOINT" in line for line in failed), lines


def test_a_connection_beyond_the_limit_names_it(hub: LocalHub) -> None:
    """The Hub isn't to blame, nor its address, where this process can open no socket."""
    before = resource.getrlimit(NOFILE)

    async def ask() -> None:
        source = Source(base=hub.endpoint, headers={})
        async with connected(source, FetchOptions(attempts=1), ForApi()) as client:
            resource.setrlimit(NOFILE, (3, before[1]))
            try:
                await client.retry("the Hub", lambda: client.ask("GET", hub.endpoint))
            finally:
                resource.setrlimit(NOFILE, before)

    with pytest.raises(GivenUp, match=r"no connection can be opened: .*raise ulimit -n") as caught:
        asyncio.run(ask())
    assert isinstance(caught.value.fault, Unreachable)
    assert not caught.value.fault.first_contact


def test_the_doctor_says_what_the_limit_allows(
    hub: LocalHub, cache: Path, few: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A concurrency that will be lowered is a warning before the job."""
    assert hub.commit
    assert few == 256
    for concurrency, said in (("8", "enough for concurrency 8"), ("1024", "not 1024: it will be")):
        assert cli.run(["doctor", "--cache-dir", str(cache), "--concurrency", concurrency]) == 0
        assert said in capsys.readouterr().out


def test_the_usual_concurrency_fits_into_the_usual_limit() -> None:
    """64 files in flight need no warning under 1,024 open files."""
    before = resource.getrlimit(NOFILE)
    resource.setrlimit(NOFILE, (1024, before[1]))
    try:
        assert within_limit(FetchOptions()) == FetchOptions()
        resource.setrlimit(NOFILE, (8, before[1]))
        assert connections_allowed() == 1
    finally:
        resource.setrlimit(NOFILE, before)
