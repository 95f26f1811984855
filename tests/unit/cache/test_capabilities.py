"""What a file system can't do is found by trying, and what was tried with is deleted."""

import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from step37_flickr8k import cli
from step37_flickr8k.cache import capabilities
from step37_flickr8k.cache.capabilities import TRIED, try_capabilities
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.tree import Tree
from step37_flickr8k.localhub import LocalHub

fork = multiprocessing.get_context("fork")


def lacks(cache: Path) -> dict[str, str]:
    """Return what is lacking, each with how that showed, and check that nothing is left."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    found = {lack.what: lack.how for lack in try_capabilities(directory)}
    assert os.listdir(directory.home) == os.listdir(directory.files) == []
    return found


def test_a_usual_file_system_can_do_all_that_is_tried(cache: Path) -> None:
    """Nothing is lacking where the tests run, and there are trials of each kind."""
    assert lacks(cache) == {}
    assert {"hard links", "names of 255 bytes", "upper and lower case", "fsync"} <= {*TRIED}


def refuse(name: str) -> Callable[..., None]:
    number = getattr(errno, name)

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize(
    ("function", "code", "what"),
    [
        ("os.link", "EPERM", "hard links"),
        ("os.link", "ENOSYS", "hard links"),
        ("os.fsync", "EOPNOTSUPP", "fsync"),
        ("step37_flickr8k.cache.tree.overwrite", "EPERM", "overwriting a file"),
    ],
)
def test_what_is_refused_is_named_with_the_reason(
    cache: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: str, what: str
) -> None:
    """One refusal is one lack: whatever else is tried is found to work."""
    monkeypatch.setattr(function, refuse(code))
    assert lacks(cache) == {what: os.strerror(getattr(errno, code))}


def test_where_nothing_can_be_deleted_nothing_else_is_tried(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Object stores grant creation without deletion: one file is left, not one a trial."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    monkeypatch.setattr("os.unlink", refuse("EPERM"))
    (lack,) = try_capabilities(directory)
    assert (lack.what, lack.how, lack.needed) == (
        "deleting files",
        "Operation not permitted",
        False,
    )
    assert len(os.listdir(directory.home)) == 1


def test_a_file_system_that_folds_names_is_found(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that differ in case alone, or in their Unicode form, are one file there."""
    monkeypatch.setattr(Tree, "exists", lambda *_: True)
    assert lacks(cache) == {
        "upper and lower case": "one is the other",
        "Unicode forms": "one is the other",
    }


def test_a_file_system_with_short_names_is_found(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems take 143 bytes: the error that it reports for more is named."""
    monkeypatch.setattr(capabilities, "_LONGEST_NAME", 256)
    assert lacks(cache) == {"names of 255 bytes": "File name too long"}


def test_the_doctor_says_what_a_run_does_without(
    hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lack that a run can do without is a warning, another one a problem."""
    assert hub.commit
    assert cli.run(["doctor", "--cache-dir", str(cache)]) == 0
    assert (
        "it can do all that was tried: deleting files, hard links, exclusive creation"
        in capsys.readouterr().out
    )
    monkeypatch.setattr("os.link", refuse("EPERM"))
    assert cli.run(["doctor", "--cache-dir", str(cache)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "warning file system hard links: Operation not permitted" in said
    assert "-> none is needed: the lease is created exclusively instead" in said
    monkeypatch.setattr("step37_flickr8k.cache.tree.overwrite", refuse("ENOSYS"))
    assert cli.run(["doctor", "--cache-dir", str(cache)]) == 2
    assert "problem" in capsys.readouterr().out
    assert not cache.exists()


def killed_doctor(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a doctor with SIGKILL when it is about to delete its first probe."""

    def die(*_: object) -> None:
        if sys._getframe(1).f_code.co_name == "try_capabilities":
            os.kill(os.getpid(), signal.SIGKILL)

    def examine() -> None:
        monkeypatch.setattr(Tree, "forget", die)
        cli.run(["doctor", "--cache-dir", str(cache)])

    process = fork.Process(target=examine)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def test_what_a_killed_doctor_leaves_is_swept_by_the_next_download(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its probes have the names of unfinished files, which the holder of the lease deletes."""
    assert hub.commit
    CacheDirectory(cache, "train").make()
    killed_doctor(cache, monkeypatch)
    left = [*cache.rglob(".step37-train-*")]
    assert {path.parent.name for path in left} == {"train", ".step37-flickr8k"}
    odd = cache / ".step37-flickr8k" / ".step37-train-0123abcd-1.tmp:x."
    odd.write_bytes(b"")
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    assert not [*cache.rglob(".step37-train-*")]


def test_what_a_killed_doctor_leaves_beside_is_swept_by_the_next_doctor(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no cache yet, its probes are in the parent; those of a living one stay."""
    assert hub.commit
    parent = tmp_path / "parent"
    parent.mkdir()
    killed_doctor(parent / "cache", monkeypatch)
    left = [*parent.glob(".step37-train-*")]
    assert left
    assert cli.run(["doctor", "--cache-dir", str(parent / "cache")]) == 0
    assert [*parent.iterdir()] == left
    for path in left:
        os.utime(path, (time.time() - 4000,) * 2)
    assert cli.run(["doctor", "--cache-dir", str(parent / "cache")]) == 0
    assert [*parent.iterdir()] == []
