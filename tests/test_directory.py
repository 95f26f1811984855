"""The cache directory and the ready record."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import ManifestEntry, read_manifest, unchanged, write_manifest
from step37_flickr8k.cache.preflight import check_space
from step37_flickr8k.cache.record import Coverage, Record, read_record, write_record
from step37_flickr8k.cache.verify import digest_of_file
from step37_flickr8k.cache.visible import rows_when_visible
from step37_flickr8k.dataset.metadata import METADATA
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import (
    CommitChanged,
    FolderFull,
    FolderNotUsable,
    NotVisible,
    TransientError,
)
from step37_flickr8k.images import why_undecodable
from tests.conftest import picture


@pytest.fixture
def directory(cache: Path) -> CacheDirectory:
    made = CacheDirectory(cache, "train")
    made.make()
    return made


def selection(
    count: int | None = 3, revision: str | None = None, key: str = "caption_0"
) -> Selection:
    return Selection(
        repo_id="intro/flickr8k",
        split="train",
        caption_key=key,
        sample_count=count,
        revision=revision,
    )


def ready(directory: CacheDirectory, commit: str = "c1", rows: int = 3) -> Record:
    """Publish a small cache and its record."""
    (directory.files / METADATA).write_text("file_name,caption_0\na.jpg,x\n")
    (directory.files / "a.jpg").write_bytes(picture(1))
    digest = digest_of_file(directory.files / METADATA, "git-sha1:")
    proven = {n: ManifestEntry(e.size, "sha256:x", e.mtime_ns) for n, e in directory.scan().items()}
    record = Record(repo_id="intro/flickr8k", commit=commit, metadata=digest, captions={})
    record = record.grown("caption_0", Coverage(rows, everything=False), proven)
    write_manifest(directory, proven)
    write_record(directory, record)
    return record


def test_digests_are_the_hubs_own(tmp_path: Path) -> None:
    """A plain file's digest is git's blob sha1, an LFS file's its sha256."""
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    git = subprocess.run(
        ["git", "hash-object", path], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert digest_of_file(path, "git-sha1:") == f"git-sha1:{git}"
    sha256 = subprocess.run(
        ["sha256sum", path], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert digest_of_file(path, "sha256:") == f"sha256:{sha256}"


def test_a_file_in_the_directories_place_is_said(tmp_path: Path) -> None:
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
def test_what_the_file_system_says_becomes_what_to_do(
    directory: CacheDirectory, code: int, error: type[Exception]
) -> None:
    """A full disk, a quota, a read-only mount and an I/O error each have their class, with the path."""
    with pytest.raises(error, match=r"train/a"), directory.writing(directory.files / "a"):
        raise OSError(code, os.strerror(code), str(directory.files / "a"))


def test_a_real_full_disk_is_directory_full() -> None:
    """ENOSPC as the kernel gives it."""
    directory = CacheDirectory(Path("/dev"), "full")
    with (
        pytest.raises(FolderFull),
        directory.errors(),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_space_is_checked_before_the_first_byte(directory: CacheDirectory) -> None:
    """A plan that can't fit is refused with what is there, what is needed, and what to do."""
    check_space(directory, 1, 1)
    with pytest.raises(
        FolderFull,
        match=r"GB free, the plan needs 1,000,000,000\.0 GB: free space or lower sample_count",
    ):
        check_space(directory, 10**18, 1)
    if os.statvfs(directory.files).f_files:
        with pytest.raises(FolderFull, match="inodes free"):
            check_space(directory, -(10**18), 10**14)


def test_our_own_files_are_replaced_whole(directory: CacheDirectory) -> None:
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
    """The file system is flushed by syncfs, by sync where there is none, and an error of it is told."""
    with directory.flushing() as flush:
        flush()
        monkeypatch.setattr("step37_flickr8k.cache.linux._SYNCFS", None)
        flush()
        monkeypatch.setattr("step37_flickr8k.cache.linux._SYNCFS", lambda _: -1)
        with pytest.raises(TransientError):
            flush()
    with directory.flushing():
        pass  # an error of before is nobody's business


def test_what_failed_before_is_let_go_by(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Syncfs tells of old errors until it was asked: they are asked for once, and don't count; later ones do."""
    told = [-1, 0, -1]
    monkeypatch.setattr("step37_flickr8k.cache.linux._SYNCFS", lambda _: told.pop(0))
    with directory.flushing() as flush:
        flush()
        with pytest.raises(TransientError):
            flush()


def test_looking_lists_what_holds_our_directory(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look is two listings, ours after the one that holds it; upwards it goes only where the cache directory is missing."""
    listed: list[Path] = []
    listdir = os.listdir

    def listing(path: Path) -> list[str]:
        listed.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", listing)
    directory.write("x", b"")
    assert directory.refresh() == {"x"}
    assert listed == [directory.root, directory.home]
    listed.clear()
    missing = CacheDirectory(directory.root / "a" / "b", "train")
    assert missing.refresh() == set()
    assert listed == [missing.root, directory.root / "a", directory.root]


def test_a_cache_directory_behind_a_link_to_nowhere_is_looked_for_there(
    directory: CacheDirectory, tmp_path: Path
) -> None:
    """Where cache_dir is a link that leads nowhere yet, there is nothing, and no error."""
    (tmp_path / "link").symlink_to(tmp_path / "later")
    linked = CacheDirectory(tmp_path / "link", "train")
    assert linked.refresh() == set()
    directory.write("x", b"")
    directory.root.rename(tmp_path / "later")
    assert linked.refresh() == {"x"}


def test_a_stale_handle_is_opened_anew(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ESTALE says that the file was replaced: it is read once more; other errors are transient; nothing there is None."""
    directory.write("x", b"content")
    read_bytes, errors = Path.read_bytes, [errno.ESTALE, 0, errno.ESTALE, errno.ESTALE, errno.EIO]

    def fail(path: Path) -> bytes:
        if code := errors.pop(0):
            raise OSError(code, os.strerror(code), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert directory.read("x") == b"content"
    for words in ("Stale file handle", "Input/output error"):
        with pytest.raises(TransientError, match=words):
            directory.read("x")
    monkeypatch.undo()
    assert directory.read("y") is None


def test_only_orphans_of_others_are_swept(directory: CacheDirectory) -> None:
    """What dead downloaders of this split left goes; what this one and those of other splits are writing stays."""
    own = directory.temporary()
    own.write_bytes(b"x")
    for place in (directory.files, directory.home):
        (place / ".step37-train-0123abcd-1.tmp").write_bytes(b"x")
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


def test_a_swept_contender_asks_again(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is swept before it has its name is written once more: sweeping costs a living contender nothing."""
    link, tries = os.link, 0

    def swept(source: Path, target: Path) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            source.unlink()
        link(source, target)

    monkeypatch.setattr(os, "link", swept)
    assert directory.create("x", b"content")
    assert (directory.home / "x").read_bytes() == b"content"
    assert os.listdir(directory.home) == ["x"]


def test_a_killed_writer_leaves_no_file_under_a_final_name(directory: CacheDirectory) -> None:
    """SIGKILL in the middle of writing one of our own files leaves the old content."""
    directory.write("x", b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from step37_flickr8k.cache.directory import CacheDirectory\n"
        "f = CacheDirectory(Path(sys.argv[1]), 'train'); os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "f.write('x', b'new')"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, directory.root], check=False).returncode == -9
    )
    assert (directory.home / "x").read_bytes() == b"old"


def test_a_scan_sees_files_alone(directory: CacheDirectory) -> None:
    """Directories, links and hidden files of the split are no files of the dataset."""
    (directory.files / "a.jpg").write_bytes(b"abc")
    (directory.files / "sub").mkdir()
    (directory.files / ".hidden").write_bytes(b"")
    (directory.files / "link").symlink_to("a.jpg")
    assert {name: entry.size for name, entry in directory.scan().items()} == {"a.jpg": 3}
    assert CacheDirectory(directory.root, "validation").scan() == {}


def test_pictures_that_can_and_cannot_be_decoded(tmp_path: Path) -> None:
    """A truncated JPEG is found, and the reason names the file, not its path."""
    path = tmp_path / "a.jpg"
    path.write_bytes(picture(1, size=64))
    assert why_undecodable(path, "a.jpg") is None
    path.write_bytes(picture(1, size=64)[:-100])
    assert "truncated" in (why_undecodable(path, "a.jpg") or "").lower()
    path.write_bytes(b"GIF")
    assert str(tmp_path) not in (why_undecodable(path, "a.jpg") or "")


def test_a_picture_that_cannot_be_read_is_not_called_broken(tmp_path: Path) -> None:
    """An error of the file system, such as EIO, is raised: it says nothing of the picture, which would be left out for good."""
    with pytest.raises(OSError, match="Is a directory"):
        why_undecodable(tmp_path, "a.jpg")


def test_a_record_survives_writing_and_reading(directory: CacheDirectory) -> None:
    """What is written is what is read, and the manifest with it."""
    record = ready(directory)
    assert read_record(directory) == record
    assert unchanged(read_manifest(directory), directory.scan()) == read_manifest(directory)
    (directory.files / "a.jpg").write_bytes(b"changed")
    assert set(unchanged(read_manifest(directory), directory.scan())) == {METADATA}


def test_what_a_record_fits() -> None:
    """A record fits a selection that it covers, when no other commit is asked for or this very run has confirmed it."""
    record = Record(
        repo_id="intro/flickr8k",
        commit="c1",
        metadata="m",
        captions={"caption_0": Coverage(3, everything=False)},
    )
    assert record.fits(selection(3), None)
    assert record.fits(selection(3, "c1"), None)
    assert not record.fits(selection(4), None)
    assert not record.fits(selection(None), None)
    assert not record.fits(selection(3, key="caption_1"), None)
    assert not record.fits(selection(3, "main"), "run-1")
    assert record.confirmed_by("run-1").fits(selection(3, "main"), "run-1")
    assert record.grown("caption_0", Coverage(5, everything=True), {}).fits(selection(None), None)
    assert record.grown("caption_0", Coverage(2, everything=False), {}).fits(selection(3), None)


def test_a_record_remembers_the_last_sixteen_runs() -> None:
    """Runs are remembered once each, the oldest forgotten first."""
    record = Record(repo_id="r", commit="c", metadata="m", captions={})
    for number in [*range(20), 19]:
        record = record.confirmed_by(f"run-{number}")
    assert record.runs == tuple(f"run-{number}" for number in range(4, 20))
    assert record.confirmed_by(None) is record


def test_visible_is_when_record_metadata_and_probes_are_there(directory: CacheDirectory) -> None:
    """A node sees the cache once all that the record speaks of opens with the right size; until then it says what is missing."""
    with pytest.raises(NotVisible, match="doesn't see a ready record"):
        rows_when_visible(directory, selection(), "c1", 0.05)
    ready(directory)
    assert rows_when_visible(directory, selection(), "c1", 1) == [Row("a.jpg", "x")]
    with pytest.raises(NotVisible, match="older ready record"):
        rows_when_visible(directory, selection(99), "c1", 0.05)
    with pytest.raises(CommitChanged, match="holds commit c1, not c2"):
        rows_when_visible(directory, selection(), "c2", 0.05)
    good = (directory.files / "a.jpg").read_bytes()
    (directory.files / "a.jpg").write_bytes(b"short")
    with pytest.raises(NotVisible, match=r"a\.jpg doesn't have"):
        rows_when_visible(directory, selection(), "c1", 0.05)
    (directory.files / "a.jpg").unlink()
    with pytest.raises(NotVisible, match="No such file"):
        rows_when_visible(directory, selection(), "c1", 0.05)
    threading.Timer(0.2, lambda: (directory.files / "a.jpg").write_bytes(good)).start()
    assert rows_when_visible(directory, selection(), "c1", 5) == [Row("a.jpg", "x")]
    (directory.files / METADATA).write_text("other")
    with pytest.raises(NotVisible, match="other bytes"):
        rows_when_visible(directory, selection(), "c1", 0.05)


def test_a_look_that_fails_is_followed_by_another(directory: CacheDirectory) -> None:
    """What the file system says of a look is no verdict: the next may see all; in the end it is said."""
    ready(directory)
    away = directory.root / "away"
    directory.home.rename(away)
    # ELOOP: an error that has no class of its own, as EIO
    directory.home.symlink_to(directory.home)
    with pytest.raises(TransientError, match=r"after 0\.05 s, .*symbolic links"):
        rows_when_visible(directory, selection(), "c1", 0.05)

    def mend() -> None:
        directory.home.unlink()
        away.rename(directory.home)

    threading.Timer(0.2, mend).start()
    assert rows_when_visible(directory, selection(), "c1", 5) == [Row("a.jpg", "x")]
