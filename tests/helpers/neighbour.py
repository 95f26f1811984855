"""Another user of the same group, who swaps directories and plants files.

Without root this user plays that part.
"""

import contextlib
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.tree import Tree

__all__ = ["Neighbour", "neighbour", "stepping", "tree_of"]

USER, GROUP = 54322, 54300
_fork = multiprocessing.get_context("fork")


class Neighbour:
    """A process of the other user; ``base`` holds the cache and the victim's own directory."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.cache = base / "cache"
        self.victim = base / "victim"
        self._pipe, theirs = _fork.Pipe()
        self._process = _fork.Process(target=self._serve, args=(theirs,), daemon=True)
        self.reset()
        self._process.start()

    def reset(self) -> None:
        """Make both directories anew."""
        for each in self.base.iterdir():
            if each.is_symlink() or not each.is_dir():
                each.unlink()
            else:
                shutil.rmtree(each)
        self.cache.mkdir()
        self.victim.mkdir(0o700)
        (self.victim / "images").mkdir()
        for name in (
            "authorized_keys",
            "metadata.csv",
            "0000.jpg",
            "train.json",
            "images/0000.jpg",
        ):
            (self.victim / name).write_bytes(b"precious")
        if os.getuid() == 0:
            for each in (self.base, self.cache):
                os.chown(each, -1, GROUP)
                each.chmod(0o2775)

    def do(self, function: Callable[..., None], *arguments: object) -> None:
        """Have the other user call a function and wait until it has; its errors are ignored."""
        self._pipe.send((function, arguments))
        assert self._pipe.recv() == "done"

    def swap(self, directory: str, *, with_directory: bool = False) -> None:
        """Replace one of the cache's directories by a link to the victim's, or by another one."""
        self.do(_swap, self.base / directory, None if with_directory else self.victim)

    def close(self) -> None:
        self._pipe.close()
        self._process.join(60)

    def _serve(self, pipe: Connection) -> None:
        self._pipe.close()
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(USER)
        with contextlib.suppress(EOFError):
            while True:
                function, arguments = pipe.recv()
                with contextlib.suppress(OSError):
                    function(*arguments)
                pipe.send("done")
        os._exit(0)


def _swap(directory: Path, target: Path | None) -> None:
    directory.rename(directory.with_name(f".away-{directory.name}"))
    if target is None:
        directory.mkdir()
    else:
        directory.symlink_to(target)


@contextlib.contextmanager
def neighbour() -> Iterator[Neighbour]:
    """Make one, in a directory that other users may enter; files are made for the group, too."""
    # Where nothing has to be written to a disk each time
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None, prefix="neighbour-"))
    base.chmod(0o775)
    before = os.umask(0o002)
    made = Neighbour(base)
    try:
        yield made
    finally:
        os.umask(before)
        made.close()
        shutil.rmtree(base)


def tree_of(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time and content of all that is in a directory, itself included."""
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in (directory, *directory.rglob("*"))
    }


def stepping(
    monkeypatch: pytest.MonkeyPatch, step: Callable[[int], None], since: str = ""
) -> Callable[[], int]:
    """Have ``step(n)`` called before the n-th call of any method of a cache directory.

    Returns what counts the calls.

    Counted are those after the first end of the method ``since``.
    """
    count, begun, lock = 0, not since, threading.Lock()

    def wrapped(method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            nonlocal count, begun
            with lock:
                if begun:
                    count += 1
                    step(count)
            try:
                return method(*arguments, **more)
            finally:
                begun = begun or method.__name__ == since

        return call

    for owner in (CacheDirectory, Tree):
        for name, method in vars(owner).items():
            if callable(method) and not name.startswith("__"):
                monkeypatch.setattr(owner, name, wrapped(method))
    return lambda: count
