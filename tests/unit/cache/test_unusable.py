"""Cache directories that can't be: each command says so, and no retry is asked for."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from step37_flickr8k import cli, prepare_flickr8k_samples
from step37_flickr8k.errors import TransientError
from step37_flickr8k.localhub import LocalHub
from tests.conftest import MakeTmpfs
from tests.helpers.ranks import PATIENCE

CACHES = {
    "/proc/foo": "no directory can be made there",
    "/proc/self/foo/bar": "no directory can be made there",
    "/sys/foo": "",
    "/dev/null/x": "a part of this path is a file",
    "/dev/full": "is a file",
    "{tmp}/file": "is a file",
    "{tmp}/file/x": "a part of this path is a file",
    "{tmp}/circle": "",
    "{tmp}/circle/x": "lead in a circle",
    "{tmp}/nothing": "a symbolic link to nothing",
    "{tmp}/" + "x" * 300: "shorter cache_dir",
    "{tmp}/" + "x/" * 2100: "shorter cache_dir",
}
COMMANDS = {
    "plan": {0, 2},
    "status": {0, 2},
    "verify": {2},
    "doctor": {0, 2},
    "preview --output {tmp}/x.html": {2},
}


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Make a file, a circle of links, and a link to nothing."""
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nothing").symlink_to("gone")
    return tmp_path


@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: cache[:20])
def test_a_directory_that_cannot_be_is_a_configuration_error(
    hub: LocalHub, bad: Path, cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Warmup ends with 2, names the path and the remedy, and requests no image."""
    assert cli.run(["warmup", "--cache-dir", cache.format(tmp=bad)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert " ERROR " in said
    assert CACHES[cache] in said
    assert "choose" in said
    assert not hub.file_requests()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    "name", ["train/metadata.csv", "train/0003.jpg", ".step37-flickr8k/train.json"]
)
def test_a_directory_in_the_way_is_named(
    cache: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a rename that fails, the target is what the user must move, not its directory."""
    (cache / name).mkdir(parents=True)
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"ERROR {cache / name}: Is a directory: " in said
    assert "move it away" in said


@pytest.mark.usefixtures("hub")
def test_a_file_in_the_place_of_the_caches_own_directory_is_named(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``.step37-flickr8k`` is no temporary file, whose name would say nothing."""
    cache.mkdir()
    (cache / ".step37-flickr8k").write_text("")
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"ERROR {cache}/.step37-flickr8k: Not a directory: " in said


@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: cache[:20])
def test_a_query_of_it_is_no_internal_error(
    hub: LocalHub, bad: Path, cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every query ends with 0 or 2, and never calls it a bug."""
    assert hub.commit
    for command, codes in COMMANDS.items():
        name, *more = command.format(tmp=bad).split()
        assert cli.run([name, "--cache-dir", cache.format(tmp=bad), *more]) in codes, command
        assert "internal error" not in capsys.readouterr().err


def command(directory: Path, *arguments: str, **limits: int) -> "subprocess.CompletedProcess[str]":
    """Run the command in a working directory, under limits of its resources."""

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    return subprocess.run(
        [sys.executable, "-m", "step37_flickr8k", *arguments],
        cwd=directory,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_working_directory_that_is_gone(hub: LocalHub, tmp_path: Path) -> None:
    """A relative cache_dir means nothing there: 2, with the remedy; a whole path works."""
    assert hub.commit
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        "import os, sys\n"
        "from step37_flickr8k import cli\n"
        "os.rmdir(os.getcwd())\n"
        "sys.exit(cli.run(sys.argv[1:]))\n"
    )
    for cache, expected in ((".cache/x", 2), (str(tmp_path / "cache"), 0)):
        gone.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", code, "warmup", "--cache-dir", cache],
            cwd=gone,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == expected, done.stderr
        assert ("the working directory is gone" in done.stderr) == (expected == 2)


def test_a_limit_of_the_size_of_files(hub: LocalHub, tmp_path: Path) -> None:
    """Files that may not grow (ulimit -f) are a configuration error with that remedy."""
    assert hub.commit
    done = command(tmp_path, "warmup", "--cache-dir", "cache", RLIMIT_FSIZE=512)
    assert done.returncode == 2, done.stderr
    assert "ulimit -f" in done.stderr


@pytest.mark.parametrize("options", ["size=0", "size=0,nr_inodes=0"])
def test_a_file_system_that_counts_nothing_is_not_full(
    hub: LocalHub, tmpfs: MakeTmpfs, options: str
) -> None:
    """0 blocks or inodes in all, as some network and FUSE file systems say: it doesn't count."""
    assert hub.commit
    cache = tmpfs(options).path
    status = os.statvfs(cache)
    assert status.f_blocks == status.f_bavail == 0
    assert ("nr_inodes" in options) == (status.f_files == 0)
    assert cli.run(["doctor", "--cache-dir", str(cache / "x")]) == 0
    assert cli.run(["warmup", "--cache-dir", str(cache / "x")]) == 0


def test_a_limit_of_threads_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started (ulimit -u, a pids limit) the code is 75, with the remedy.

    Root has no such limit, so the interpreter's own error is raised here.
    """

    def refuse(_: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(TransientError, match="ulimit -u"):
        prepare_flickr8k_samples(cache_dir=str(cache))


def test_names_that_this_process_cannot_write(hub: LocalHub, tmp_path: Path) -> None:
    """In a process whose file names are ASCII, an image called é is a configuration error."""
    train = hub.directory / "train"
    (train / "0003.jpg").rename(train / "\u00e9.jpg")
    table = train / "metadata.csv"
    table.write_text(table.read_text("utf-8").replace("0003.jpg", "\u00e9.jpg"), "utf-8")
    hub.refresh()
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "step37_flickr8k", "warmup", "--cache-dir", tmp_path / "cache"],
        env={**os.environ, **plain},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "PYTHONUTF8=1" in done.stderr
