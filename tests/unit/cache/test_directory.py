"""The cache directory: publish, own files, errors with their remedy, sweep."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.flushing import flushing
from step37_flickr8k.cache.preflight import check_space
from step37_flickr8k.dataset.selection import MAX_PIXELS
from step37_flickr8k.errors import (
    FolderFull,
    FolderNotUsable,
    TransientError,
)
from step37_flickr8k.images.decoding import examine
from tests.conftest import picture


@pytest.fixture
def directory(cache: Path) -> CacheDirectory:
    made = CacheDirectory(cache, "train")
    made.make()
    return made


def test_a_file_instead_of_the_directory_is_refused(tmp_path: Path) -> None:
    """A file where the cache directory should be is FolderNotUsable with the remedy."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(FolderNotUsable, match="choose another cache_dir"):
        CacheDirectory(tmp_path / "cache", "train").make()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train").write_text("")
    with pytest.raises(FolderNotUsable, match="is a file"):
        CacheDirectory(tmp_path / "other", "train").make()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, FolderFull),
        (errno.EDQUOT, FolderFull),
        (errno.EROFS, FolderNotUsable),
        (errno.EIO, TransientError),
    ],
)
def test_an_error_of_the_file_system_names_its_remedy(
    directory: CacheDirectory, code: int, error: type[Exception]
) -> None:
    """A full disk, a quota, a read-only mount and an I/O error have a class each, with the path."""
    with pytest.raises(error, match=r"train/a"), directory.writing(directory.files / "a"):
        raise OSError(code, os.strerror(code), str(directory.files / "a"))


def test_a_real_full_disk_is_directory_full() -> None:
    """ENOSPC from the kernel is FolderFull."""
    directory = CacheDirectory(Path("/dev"), "full")
    with (
        pytest.raises(FolderFull),
        directory.errors(),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_space_is_checked_before_the_first_byte(directory: CacheDirectory) -> None:
    """A plan that can't fit is refused, with what is free, what is needed and the remedy."""
    check_space(directory, 1, 1)
    with pytest.raises(
        FolderFull,
        match=r"GB free, the plan needs 1,000,000,000\.0 GB: free space or lower sample_count",
    ):
        check_space(directory, 10**18, 1)
    if os.statvfs(directory.files).f_files:
        with pytest.raises(FolderFull, match="inodes free"):
            check_space(directory, -(10**18), 10**14)


def test_the_caches_own_files_are_replaced_whole(directory: CacheDirectory) -> None:
    """Writing replaces, creating refuses a taken name, and neither leaves a temporary file."""
    directory.write("x", b"one")
    directory.write("x", b"two")
    assert (directory.home / "x").read_bytes() == b"two"
    assert directory.create("y", b"first") is True
    assert directory.create("y", b"second") is False
    assert (directory.home / "y").read_bytes() == b"first"
    directory.rewrite("y", b"in")
    assert (directory.home / "y").read_bytes() == b"in"
    assert sorted(os.listdir(directory.home)) == ["x", "y"]


def test_flushing_reaches_the_file_system(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flushing uses syncfs, or sync where there is none, and raises its errors."""
    with flushing(directory) as flush:
        flush()
        monkeypatch.setattr("step37_flickr8k.cache.linux._SYNCFS", None)
        flush()
        monkeypatch.setattr("step37_flickr8k.cache.linux._SYNCFS", lambda _: -1)
        with pytest.raises(TransientError):
            flush()
    with flushing(directory):
        pass  # an error from before is ignored


def test_errors_from_before_the_work_are_ignored(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors from before are ignored, and later ones are raised.

    syncfs reports an old error once, so it is called once before the work.
    """
    results = [-1, 0, -1]
    monkeypatch.setattr("step37_flickr8k.cache.linux._SYNCFS", lambda _: results.pop(0))
    with flushing(directory) as flush:
        flush()
        with pytest.raises(TransientError):
            flush()


def test_a_refresh_lists_the_parent_first(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh is two listings: the cache directory, then its own directory inside.

    Parents are listed only if the cache directory is missing.
    """
    listed: list[str] = []
    listdir = os.listdir

    def listing(path: Path | int) -> list[str]:
        listed.append(
            str(Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else path)
        )
        return listdir(path)

    monkeypatch.setattr(os, "listdir", listing)
    directory.write("x", b"")
    listed.clear()
    assert directory.refresh() == {"x"}
    assert listed == [str(directory.root), str(directory.home)]
    listed.clear()
    missing = CacheDirectory(directory.root / "a" / "b", "train")
    assert missing.refresh() == set()
    assert listed == [str(directory.root / "a"), str(directory.root)]


def test_a_cache_directory_behind_a_link_to_nowhere_is_searched_there(
    directory: CacheDirectory, tmp_path: Path
) -> None:
    """A cache_dir that is a link to nowhere is empty, without an error."""
    (tmp_path / "link").symlink_to(tmp_path / "later")
    linked = CacheDirectory(tmp_path / "link", "train")
    assert linked.refresh() == set()
    directory.write("x", b"")
    directory.root.rename(tmp_path / "later")
    assert linked.refresh() == {"x"}


def test_a_stale_handle_is_opened_again(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ESTALE, when the file was replaced, it is read once more.

    Other errors are transient; a missing file is None.
    """
    directory.write("x", b"content")
    opened, errors = os.open, [errno.ESTALE, 0, errno.ESTALE, errno.ESTALE, errno.EIO]

    def fail(path: str, *arguments: int, **more: int) -> int:
        code = errors.pop(0) if path == "x" else 0
        if code:
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", fail)
    assert directory.read("x", 100) == b"content"
    for words in ("Stale file handle", "Input/output error"):
        with pytest.raises(TransientError, match=f"{directory.home}/x: {words}"):
            directory.read("x", 100)
    monkeypatch.undo()
    assert directory.read("y", 100) is None


def test_a_file_that_goes_stale_while_it_is_read_is_read_again(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once; after that the error names the file."""
    directory.write("x", b"content")
    examined, errors = os.fstat, [errno.ESTALE, 0, errno.ESTALE, errno.ESTALE]

    def fail(descriptor: int) -> os.stat_result:
        found = examined(descriptor)
        if stat.S_ISREG(found.st_mode) and (code := errors.pop(0) if errors else 0):
            raise OSError(code, os.strerror(code))
        return found

    monkeypatch.setattr(os, "fstat", fail)
    assert directory.read("x", 100) == b"content"
    with pytest.raises(TransientError, match=f"{directory.home}/x: Stale file handle"):
        directory.read("x", 100)


def test_only_orphans_of_others_are_swept(directory: CacheDirectory) -> None:
    """A sweep deletes what dead downloaders of this split left unfinished.

    Files that this one, or one of another split, is writing stay.
    """
    own = directory.temporary()
    own.write_bytes(b"x")
    for parent in (directory.files, directory.home):
        (parent / ".step37-train-0123abcd-1.tmp").write_bytes(b"x")
    others = [
        directory.home / ".step37-train-b-0123abcd-1.tmp",
        directory.home / ".step37-test-0123abcd-1.tmp",
    ]
    for other in others:
        other.write_bytes(b"x")
    assert directory.sweep() == 2
    assert own.exists()
    assert all(other.exists() for other in others)
    directory.clear_up()
    assert not own.exists()


def test_a_swept_contender_writes_again(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is swept before it has its name is written again.

    So a sweep doesn't harm a live process that wants the lease.
    """
    link, tries = os.link, 0

    def swept(source: str, target: str, **directories: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            (directory.home / source).unlink()
        link(source, target, **directories)

    monkeypatch.setattr(os, "link", swept)
    assert directory.create("x", b"content")
    assert (directory.home / "x").read_bytes() == b"content"
    assert os.listdir(directory.home) == ["x"]


def test_a_killed_writer_leaves_no_file_under_a_final_name(directory: CacheDirectory) -> None:
    """SIGKILL while one of the cache's own files is written leaves the old content."""
    directory.write("x", b"old")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from step37_flickr8k.cache.directory import CacheDirectory\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "CacheDirectory(Path(sys.argv[1]), 'train').write('x', b'new')"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, directory.root], check=False).returncode == -9
    )
    assert (directory.home / "x").read_bytes() == b"old"


def test_a_scan_sees_files_alone(directory: CacheDirectory) -> None:
    """Directories, links and hidden files are not files of the dataset."""
    (directory.files / "a.jpg").write_bytes(b"abc")
    (directory.files / "sub").mkdir()
    (directory.files / ".hidden").write_bytes(b"")
    (directory.files / "link").symlink_to("a.jpg")
    assert {name: entry.size for name, entry in directory.scan().items()} == {"a.jpg": 3}
    assert CacheDirectory(directory.root, "validation").scan() == {}


def test_images_that_can_and_cannot_be_decoded(tmp_path: Path) -> None:
    """A truncated JPEG is found, and the reason names the file, not its path."""
    path = tmp_path / "a.jpg"
    path.write_bytes(picture(1, size=64))
    assert examine(path, "a.jpg", MAX_PIXELS).decode_error == ""
    path.write_bytes(picture(1, size=64)[:-100])
    assert "truncated" in (examine(path, "a.jpg", MAX_PIXELS).decode_error).lower()
    path.write_bytes(b"GIF")
    assert str(tmp_path) not in (examine(path, "a.jpg", MAX_PIXELS).decode_error)


def test_an_image_that_cannot_be_read_is_not_called_broken(tmp_path: Path) -> None:
    """An error of the file system, such as EIO, is raised.

    It says nothing about the image, which would be skipped for good.
    """
    with pytest.raises(OSError, match="Is a directory"):
        examine(tmp_path, "a.jpg", MAX_PIXELS)
