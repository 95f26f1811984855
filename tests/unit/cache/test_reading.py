"""What reading a warm cache costs in system calls, and that other users can read it."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import ManifestEntry, write_manifest
from step37_flickr8k.cache.record import Coverage, Record, write_record
from step37_flickr8k.dataset.names import METADATA
from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw, captioned, needs_sys_admin, picture, write_rows
from tests.helpers.digests import digest_of_file
from tests.helpers.ranks import Ranks

pytestmark = pytest.mark.slow
needs_strace = pytest.mark.skipif(
    not shutil.which("strace"), reason="strace isn't here: apt-get install strace"
)

READ = """
import sys
from step37_flickr8k import prepare_flickr8k_samples
from tests.helpers.digests import digest_of_file
samples = prepare_flickr8k_samples(sample_count=None, cache_dir=sys.argv[1])
assert open(samples[-1].image_path, "rb").read(2) == b"\\xff\\xd8"
print(len(samples))
"""
LOCKS = re.compile(r"\b(flock\(|F_SETLK|F_SETLKW|F_OFD_SETLK|lockf\()")
MOST = 120


class Traced:
    """A process's system calls that take a path or could lock, and its output."""

    def __init__(self, directory: Path, command: list[str], **environment: str) -> None:
        self._log = directory / "strace.log"
        trace = [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-y",
            "-s",
            "4096",
            "-e",
            "trace=%file,flock,fcntl",
            "-o",
            str(self._log),
        ]
        self.process = subprocess.Popen(
            [*trace, *command], stdout=subprocess.PIPE, text=True, env=os.environ | environment
        )

    def wait(self) -> str:
        assert self.process.stdout is not None
        with self.process.stdout:
            output = self.process.stdout.read()
        assert self.process.wait() == 0
        return output

    def naming(self, directory: Path) -> Counter[str]:
        """Count the calls that name a path or a descriptor of a directory, by system call."""
        calls = re.findall(
            rf'^(?:\d+\s+)?(?!fcntl|flock)(\w+)\((?=.*["<]{re.escape(str(directory))}[/">])',
            self.text,
            re.MULTILINE,
        )
        return Counter(calls)

    @property
    def text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


def warm(directory: Path, environment: dict[str, str], cache: Path, count: int) -> Traced:
    """Read a warm cache in a process of its own, without a Hub."""
    read = Traced(
        directory,
        [sys.executable, "-c", READ, str(cache)],
        HF_ENDPOINT="http://127.0.0.1:9",
        **environment,
    )
    assert read.wait() == f"{count}\n"
    assert not LOCKS.search(read.text)
    assert read.naming(cache).total() > 16, "the probes at least are seen"
    return read


def own_inodes(cache: Path) -> int:
    """Return how many inodes the cache has beyond the dataset's files and their directories."""
    return sum(1 for path in cache.rglob("*") if path.parent.name != "train") - 1


@needs_strace
def test_reading_six_thousand_rows(
    draw: Draw, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading makes at most 120 calls that name a path of the cache, and never locks.

    On rank 0 alone, in a new run, and on a waiting rank.
    """
    count = 6_000
    with LocalHub(draw(count)) as hub:
        (cache / "train").mkdir(parents=True)
        for path in (hub.directory / "train").iterdir():  # adopted: quicker than fetched
            os.link(path, cache / "train" / path.name)
        cold = Traced(tmp_path, [sys.executable, "-c", READ, str(cache)], HF_ENDPOINT=hub.endpoint)
        assert cold.wait() == f"{count}\n"
        assert not hub.file_requests()[1:], "metadata.csv at most"
    assert not LOCKS.search(cold.text)
    figures = {
        "alone": warm(tmp_path, {}, cache, count).naming(cache).total(),
        "rank 0 of a new run": warm(tmp_path, {"STEP37_RUN_ID": "run-1"}, cache, count)
        .naming(cache)
        .total(),
        "a waiting rank": of_a_follower(cache, hub, tmp_path).total(),
    }
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{count:,} rows: calls that name a path of the cache: {figures};"
            f" {own_inodes(cache)} inodes of its own"
        )
    assert max(figures.values()) <= MOST
    assert own_inodes(cache) <= 10


@needs_strace
def test_reading_sixty_thousand_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A million rows cost exactly the same calls as six thousand."""
    figures = {}
    for count in (6_000, 60_000):
        directory = ready_cache(tmp_path / f"{count}", count)
        figures[count] = warm(tmp_path, {}, directory.root, count).naming(directory.root)
        assert own_inodes(directory.root) <= 10
    with capsys.disabled():
        print(f"\n60,000 rows: calls that name a path of the cache: {dict(figures[60_000])}")  # noqa: T201 - the figures
    assert figures[60_000] == figures[6_000]
    assert figures[60_000].total() <= MOST


def ready_cache(root: Path, count: int) -> CacheDirectory:
    """Make a ready cache without a run: its images are links to one file."""
    directory = CacheDirectory(root, "train")
    directory.make()
    (root / "image").write_bytes(picture(1))
    for number in range(count):
        os.link(root / "image", directory.files / f"{number:05}.jpg")
    (root / "image").unlink()
    write_rows(
        directory.files,
        [captioned(number) | {"file_name": f"{number:05}.jpg"} for number in range(count)],
    )
    digest = digest_of_file(directory.files / METADATA, "git-sha1:")
    manifest = {
        name: ManifestEntry(entry.size, digest, entry.mtime_ns)
        for name, entry in directory.scan().items()
    }
    record = Record(repo_id="intro/flickr8k", commit="c" * 40, metadata=digest, captions={})
    write_manifest(directory, manifest)
    write_record(directory, record.grown("caption_0", Coverage(count, everything=True), manifest))
    return directory


def of_a_follower(cache: Path, hub: LocalHub, tmp_path: Path) -> Counter[str]:
    """Return the calls of rank 1 of a job of two on a warm cache."""
    job = Ranks(2, tmp_path / "job")
    arguments = ["warmup", "--cache-dir", str(cache), "--revision", hub.commit]
    job.start_command(0, *arguments)
    launcher = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(job.port),
    }
    follower = Traced(tmp_path, [sys.executable, "-m", "step37_flickr8k", *arguments], **launcher)
    follower.wait()
    assert job.wait() == {0: 0}, job.log(0)
    assert not LOCKS.search(follower.text)
    return follower.naming(cache)


@needs_strace
def test_filling_takes_no_lock(hub: LocalHub, cache: Path, tmp_path: Path) -> None:
    """A cold download uses no file lock, and a fixed number of calls for each image."""
    assert hub.commit
    cold = Traced(tmp_path, [sys.executable, "-c", READ, str(cache)])
    assert cold.wait() == "12\n"
    assert not LOCKS.search(cold.text)
    assert cold.naming(cache)["renameat"] >= 13


# --- readers that can't write ---------------------------------------------------------------------

OTHER = 54321  # a user and a group that nobody is


def as_another_user(
    cache: Path, *command: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as another user with the cache mounted read-only, as a container has it.

    In a mount namespace of its own, which ends with it. The cache is bound to a directory that
    every user may enter.
    """
    script = (
        'mount -t tmpfs none /mnt && mkdir /mnt/cache && mount --bind "$1" /mnt/cache'
        " && mount -o remount,bind,ro /mnt/cache && shift"
        f" && exec setpriv --reuid={OTHER} --regid={OTHER}"
        ' --clear-groups --inh-caps=-all "$@"'
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(cache), *command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
        | environment,
    )


@needs_sys_admin
def test_another_user_reads_from_a_read_only_mount(
    hub: LocalHub, cache: Path, tmp_path: Path
) -> None:
    """On a read-only mount the library and the command work, with a run id and without.

    The command adds nothing to the record.
    """
    Ranks(1, tmp_path / "job").start_all("warmup", "--cache-dir", str(cache)).wait()
    before = (cache / ".step37-flickr8k" / "train.json").read_bytes()
    for environment in ({}, {"STEP37_RUN_ID": "run-9"}):
        read = as_another_user(cache, sys.executable, "-c", READ, "/mnt/cache", **environment)
        assert (read.stdout, read.returncode) == ("12\n", 0), read.stderr
        command = [
            sys.executable,
            "-m",
            "step37_flickr8k",
            "warmup",
            "--cache-dir",
            "/mnt/cache",
            "--revision",
            hub.commit,
        ]
        warmed = as_another_user(cache, *command, **environment)
        assert warmed.returncode == 0, warmed.stderr
        assert "the cache was warm" in warmed.stderr
        assert "WARNING" not in warmed.stderr
    assert (cache / ".step37-flickr8k" / "train.json").read_bytes() == before


@needs_sys_admin
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o700, "Permission denied: choose another cache_dir, or have its owner let this user"),
        (0o755, "Read-only file system"),
    ],
    ids=["closed", "too narrow"],
)
def test_what_another_user_cannot_have_is_said(
    hub: LocalHub, cache: Path, tmp_path: Path, mode: int, said: str
) -> None:
    """A cache closed to other users, or one that would have to grow, is exit code 2.

    One line names the path and the remedy.
    """
    Ranks(1, tmp_path / "job").start_all(
        "warmup", "--cache-dir", str(cache), "--sample-count", "3"
    ).wait()
    (cache / ".step37-flickr8k").chmod(mode)
    command = [
        sys.executable,
        "-m",
        "step37_flickr8k",
        "warmup",
        "--cache-dir",
        "/mnt/cache",
        "--endpoint",
        hub.endpoint,
    ]
    refused = as_another_user(cache, *command)
    assert refused.returncode == 2, refused.stderr
    assert said in refused.stderr.splitlines()[-1]
    assert "/mnt/cache" in refused.stderr.splitlines()[-1]
