"""Space: what is checked before the first byte, and a disk that fills up, on small real mounts."""

import errno
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from step37_flickr8k import errors, prepare_flickr8k_samples
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.preflight import try_out
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import Draw, MakeTmpfs, needs_sys_admin, picture
from tests.helpers.ranks import Ranks

SIZE = 100_000  # bytes of an image here


@pytest.fixture
def heavy(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Serve twelve images of 100 KB each."""
    directory = draw()
    for number in range(12):
        (directory / "train" / f"{number:04}.jpg").write_bytes(
            picture(number).ljust(SIZE, bytes([number]))
        )
    with LocalHub(directory) as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.endpoint)
        yield serving


def images_sent(hub: LocalHub) -> int:
    return sum(request.repo_path.endswith(".jpg") for request in hub.file_requests())


def test_too_little_space_is_said_before_the_first_image(heavy: LocalHub, tmpfs: MakeTmpfs) -> None:
    """The error names what is free, what is needed and the remedy; a smaller selection works.

    The exit code is 75, because space may be freed.
    """
    cache = tmpfs("size=1m").path
    with pytest.raises(
        errors.FolderFull,
        match=r"train has 1\.0 MB free, the plan needs 1\.2 MB: free space or lower",
    ) as caught:
        prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert errors.exit_code_of(caught.value) == 75
    assert images_sent(heavy) == 0
    assert len(prepare_flickr8k_samples(sample_count=5, cache_dir=str(cache))) == 5


def test_too_few_inodes_are_said_before_the_first_image(heavy: LocalHub, tmpfs: MakeTmpfs) -> None:
    """A file system with free bytes but too few inodes is refused, too."""
    cache = tmpfs("size=10m,nr_inodes=16").path
    with pytest.raises(
        errors.FolderFull, match=r"has \d+ inodes free, the plan needs 12: delete files"
    ):
        prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert images_sent(heavy) == 0


def test_a_commit_that_replaces_files_needs_room_for_what_is_new(
    heavy: LocalHub, tmpfs: MakeTmpfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced files free their space.

    So a cache can change its commit on a disk that couldn't hold both.
    """
    monkeypatch.setenv("STEP37_CONCURRENCY", "2")
    cache = tmpfs("size=2m").path
    assert len(prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))) == 12
    for number in range(12):
        (heavy.directory / "train" / f"{number:04}.jpg").write_bytes(
            picture(number + 50).ljust(SIZE, b"x")
        )
    heavy.refresh()
    assert (
        len(prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache), revision="main"))
        == 12
    )
    assert (cache / "train" / "0011.jpg").read_bytes() == (
        heavy.directory / "train" / "0011.jpg"
    ).read_bytes()


@needs_sys_admin
def test_too_small_a_quota_is_said_before_the_first_image(heavy: LocalHub, tmp_path: Path) -> None:
    """A quota that statvfs doesn't show is checked, too: here that of a btrfs subvolume."""
    if not shutil.which("mkfs.btrfs"):
        pytest.skip("no mkfs.btrfs: apt-get install btrfs-progs")
    image = tmp_path / "image"
    with image.open("wb") as out:
        out.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "--quiet", image], check=True)
    mount = tmp_path / "mounted"
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        cache = mount / "cache"
        for command in (
            ("subvolume", "create", cache),
            ("quota", "enable", mount),
            ("qgroup", "limit", "600K", cache),
        ):
            subprocess.run(["btrfs", *command], check=True, stdout=subprocess.DEVNULL)
        with pytest.raises(
            errors.FolderFull,
            match=r"quota allows about \d\S* [kM]B, the plan needs 1\.2 MB: raise the quota",
        ):
            prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
        assert images_sent(heavy) == 0
        assert not list((cache / "train").glob("*.jpg"))
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def test_a_directory_that_does_not_show_what_was_written_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that doesn't list a renamed file can't be published into."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    try_out(directory)
    assert not list(directory.files.iterdir())
    assert not list(directory.home.iterdir())
    monkeypatch.setattr("os.listdir", lambda _: [])
    with pytest.raises(
        errors.FolderNotUsable, match="doesn't show what was just written and renamed there"
    ):
        try_out(directory)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EXDEV])
def test_a_directory_that_takes_no_renames_is_refused_before_the_first_byte(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Renames are tried before the first request for a file."""

    def refuse(source: str, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), source)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(errors.Step37Error, match=os.strerror(code)):
        prepare_flickr8k_samples(cache_dir=str(cache))
    assert not hub.file_requests()
    assert not list((cache / "train").iterdir())


def test_files_that_nobody_else_could_read_are_a_warning(
    hub: LocalHub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A umask of 077 makes a cache for one user, as may be intended: a warning says so."""
    assert hub.commit
    before = os.umask(0o077)
    try:
        with caplog.at_level(logging.WARNING):
            prepare_flickr8k_samples(cache_dir=str(cache))
    finally:
        os.umask(before)
    assert (
        "get mode 0600, so no other user can read them: if other users train on them, set umask 022"
        in caplog.text
    )


def test_files_that_everybody_could_change_are_a_warning(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A umask of 000 lets every user write what is trained on: a warning says so, and 002 is none."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    for umask in (0o002, 0o000):
        assert "so every user who reaches them can change them" not in caplog.text
        before = os.umask(umask)
        try:
            try_out(directory)
        finally:
            os.umask(before)
    assert "get mode 0666, so every user who reaches them can change them: set umask" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("size", ["2m", "20m,nr_inodes=30"], ids=["space", "inodes"])
def test_a_disk_that_fills_up_in_the_middle(
    heavy: LocalHub, tmpfs: MakeTmpfs, tmp_path: Path, size: str
) -> None:
    """Every rank ends with 75 and the remedy; verified files stay.

    No file is torn, and the next run fetches the rest.
    """
    cache = tmpfs(f"size={size}").path
    # These come only when it is full
    held = (f"train/{number:04}.jpg" for number in range(4, 12))
    heavy.faults.add(*(Fault.status(503, retry_after=3, path=path) for path in held))
    job = Ranks(3, tmp_path / "job", {"STEP37_ATTEMPTS": "100"}).start_all(
        "warmup", "--cache-dir", str(cache)
    )
    fill_up(cache, job)
    heavy.faults.clear()
    assert job.wait() == {0: 75, 1: 75, 2: 75}, job.log(0)
    for rank in range(3):
        assert "free space" in job.log(rank)
        assert (
            "No space left on device: free space, raise the quota or lower sample_count"
            in job.log(rank)
        )
    came = {path.name: path.read_bytes() for path in (cache / "train").iterdir()}
    assert came
    assert all(
        content == (heavy.directory / "train" / name).read_bytes() for name, content in came.items()
    )
    assert not (cache / ".step37-flickr8k" / "train.json").exists()
    shutil.rmtree(cache / "filler")
    heavy.clear_requests()
    again = Ranks(3, tmp_path / "again").start_all("warmup", "--cache-dir", str(cache))
    assert again.wait() == {0: 0, 1: 0, 2: 0}, again.log(0)
    assert images_sent(heavy) == 12 - sum(name.endswith(".jpg") for name in came)


def fill_up(cache: Path, job: Ranks) -> None:
    """Act as another user: after the first images, take all the space and inodes that are left."""
    while len(list((cache / "train").glob("*.jpg"))) < 4:
        assert job.processes[0].is_alive(), job.log(0)
        time.sleep(0.05)
    (cache / "filler").mkdir()
    for number in range(10_000):
        try:
            (cache / "filler" / f"{number}").write_bytes(bytes(4096))
        except OSError:
            return
