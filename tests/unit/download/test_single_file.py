"""A single file: staged in a private directory, then renamed; whatever others do to the cache."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from step37_flickr8k import errors, get_flickr8k_dataset_file
from step37_flickr8k.localhub import LocalHub
from tests.helpers.proxies import proxy

NAME = "train/0001.jpg"


def get(cache: Path, name: str = NAME) -> Path:
    return get_flickr8k_dataset_file(repo_id="intro/flickr8k", filename=name, cache_dir=cache)


def staged(cache: Path) -> list[Path]:
    return list(cache.glob(".step37-single-*"))


@pytest.mark.parametrize("value", ["30s", ""])
def test_timeouts_that_the_library_cannot_read_are_not_passed_to_it(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """With these in the environment, huggingface_hub can't even be imported."""
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", value)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", value)
    assert get(cache).read_bytes() == (hub.directory / NAME).read_bytes()


@contextlib.contextmanager
def when_it_is_asked_for(act: Callable[[], None]) -> Iterator[None]:
    """Act when the file is asked for the first time, before the Hub learns of it."""
    acted: list[str] = []

    def before(method: str, _: str) -> None:
        if not acted:
            acted.append(method)
            act()

    with proxy(before) as between, pytest.MonkeyPatch.context() as environment:
        environment.setenv("http_proxy", between.address)
        yield
    assert acted


@pytest.fixture
def victim(tmp_path: Path, cache: Path) -> Path:
    """Make a directory outside of the cache with files of the same names."""
    victim = tmp_path / "victim"
    for directory in (victim, victim / "train", cache / "train"):
        directory.mkdir(parents=True)
    for name in ("0001.jpg", NAME):
        (victim / name).write_bytes(b"precious")
    return victim


def contents(directory: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in directory.rglob("*") if each.is_file()}


@pytest.mark.parametrize("swapped", ["train", ".cache", ".cache/huggingface/download"])
def test_a_directory_swapped_for_a_link_leads_nowhere(
    hub: LocalHub, cache: Path, victim: Path, swapped: str
) -> None:
    """Nothing outside is written; a file that can't get its name without that is refused."""
    before = contents(victim)

    def swap() -> None:
        (cache / swapped).parent.mkdir(parents=True, exist_ok=True)
        if (cache / swapped).exists():
            (cache / swapped).rename(cache / "away")
        (cache / swapped).symlink_to(victim)

    with when_it_is_asked_for(swap):
        if swapped == "train":
            with pytest.raises(errors.FolderNotUsable, match=r"is a symbolic link|replaced"):
                get(cache)
        else:
            assert get(cache).read_bytes() == (hub.directory / NAME).read_bytes()
    assert contents(victim) == before
    assert not staged(cache)


def test_the_private_directory_may_be_renamed(hub: LocalHub, cache: Path, victim: Path) -> None:
    """It is reached by its descriptor: a link of its name is followed by nobody."""
    before = contents(victim)

    def swap() -> None:
        (private,) = staged(cache)
        assert private.stat().st_mode & 0o777 == 0o700
        private.rename(cache / "away")
        private.symlink_to(victim)

    with when_it_is_asked_for(swap):
        assert get(cache).read_bytes() == (hub.directory / NAME).read_bytes()
    assert contents(victim) == before


def test_what_is_there_is_reused_and_nothing_else_is_left(hub: LocalHub, cache: Path) -> None:
    """One GET for two calls; mode by the umask; a link of the file's name is replaced."""
    path = get(cache)
    assert get(cache) == path == cache / NAME
    assert len(hub.file_requests()) == 1
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    note = cache / ".cache/huggingface/download" / f"{NAME}.metadata"
    assert {each for each in cache.rglob("*") if each.is_file()} == {path, note}
    other = path.rename(cache / "other")
    path.symlink_to(other)
    other.write_bytes(b"other")
    assert not get(cache).is_symlink()
    assert path.read_bytes() == (hub.directory / NAME).read_bytes()
    assert other.read_bytes() == b"other"


def test_what_a_killed_process_left_is_swept(hub: LocalHub, cache: Path) -> None:
    """A day later, and only this user's own; what is younger may be in use."""
    assert hub.commit
    old, young = (cache / f".step37-single-{name}" for name in ("old", "young"))
    for each in (old, young):
        (each / "train").mkdir(parents=True)
        (each / NAME).write_bytes(b"half")
    for path in (old / NAME, old / "train", old):
        os.utime(path, (1, 1))
    get(cache)
    assert staged(cache) == [young]


def test_several_at_once_leave_one_file(hub: LocalHub, cache: Path) -> None:
    """Each has a private directory; the last rename wins, and all have the right bytes."""
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(get(cache).read_bytes())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(hub.directory / NAME).read_bytes()] * 3
    assert not staged(cache)
