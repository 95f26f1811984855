"""What is read of the cache has bounds: no FIFO, device, link or deep JSON holds up a run."""

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from step37_flickr8k import cli, prepare_flickr8k_samples
from step37_flickr8k.cache import lease as leases
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Claim, holder, take
from step37_flickr8k.cache.manifest import read_manifest
from step37_flickr8k.cache.record import read_record
from step37_flickr8k.cache.rows import rows_of
from step37_flickr8k.cache.verify import Check, is_complete
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.errors import Step37Error
from step37_flickr8k.localhub import LocalHub
from tests.unit.cache.test_reading import ready_cache

HOME = ".step37-flickr8k"
DEEP = b"[" * 200_000 + b"]" * 200_000
HUGE = b"1" + b"0" * 5000


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 << 30)


def listen(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's name has at most 108 bytes
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(path.name)
    os.chdir(before)


def deep(path: Path) -> None:
    path.write_bytes(DEEP)


def deep_inside(path: Path) -> None:
    """Put depth where a value is expected, in an object that is sound otherwise."""
    fields = {"nonce": "5e", "run": None, "rank": 0, "host": "n", "pid": 1, "beat": 1}
    text = json.dumps(fields | {"progress": {"state": "STATE"}})
    path.write_bytes(text.encode().replace(b'"STATE"', DEEP))


def huge_numbers(path: Path) -> None:
    fields = {"nonce": "5e", "run": None, "host": "n", "rank": 0, "pid": 0, "beat": 1}
    text = json.dumps(fields | {"progress": {"state": "fetching", "files": 0, "of_files": 0}})
    path.write_bytes(text.encode().replace(b": 0", b": " + HUGE))


def numbers_beyond_floats(path: Path) -> None:
    many = 10**400
    progress = {"state": "fetching", "bytes": many, "of_bytes": many}
    fields = {"nonce": "5e", "run": None, "host": "n", "rank": many, "pid": many, "beat": many}
    path.write_text(json.dumps(fields | {"timeout": many, "progress": progress}))


PLANTED: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "socket": listen,
    "device": lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5)),
    "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "sparse": sparse,
    "deep": deep,
    "deep inside": deep_inside,
    "huge numbers": huge_numbers,
    "beyond floats": numbers_beyond_floats,
    "not UTF-8": lambda path: path.write_bytes(b'{"\xff": 1}'),
}
NAMES = (f"{HOME}/train.json", f"{HOME}/train.manifest", "train/metadata.csv", "train/00000.jpg")


@pytest.fixture(params=PLANTED)
def plant(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    if request.param == "device" and os.getuid() != 0:
        pytest.skip("needs root: makes a device")
    return PLANTED[request.param]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_planted_under_a_name_is_as_good_as_none(
    cache: Path, plant: Callable[[Path], object], name: str
) -> None:
    """Record and manifest are missing then, an image isn't listed, and a table is a clear error."""
    directory = ready_cache(cache, 3)
    record = read_record(directory)
    assert record is not None
    (cache / name).unlink()
    plant(cache / name)
    assert (read_record(directory) is None) == name.endswith(".json")
    assert (not read_manifest(directory)) == name.endswith(".manifest")
    checks: tuple[Check, ...] = ("names", "all")
    for check in checks:
        assert is_complete(directory, record, check=check) == name.endswith(".json")
    selection = Selection(repo_id="r", split="train", caption_key="caption_0", sample_count=None)
    if name.endswith(".csv"):
        with pytest.raises(Step37Error) as caught:
            [*rows_of(directory, record, selection)]
        assert str(cache / name) in str(caught.value) or "line" in str(caught.value)
        assert caught.value.exit_code == 2
    assert cli.run(["status", "--cache-dir", str(cache)]) == 0


@pytest.mark.parametrize("name", [*NAMES[:3], "train/0000.jpg"])
def test_a_warmup_makes_anew_what_was_planted(hub: LocalHub, cache: Path, name: str) -> None:
    """A FIFO is gone afterwards, and nothing has waited for its other end."""
    assert hub.commit
    assert len(prepare_flickr8k_samples(sample_count=2, cache_dir=str(cache))) == 2
    (cache / name).unlink()
    os.mkfifo(cache / name)
    assert len(prepare_flickr8k_samples(sample_count=2, cache_dir=str(cache))) == 2
    assert stat.S_ISREG((cache / name).lstat().st_mode)


def test_what_is_planted_as_a_lease_is_waited_for_and_taken(
    cache: Path, plant: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is nobody's word, or that of somebody silent; the lease is taken after the timeout."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    plant(directory.home / "train.lease.7")
    holder(directory)
    assert cli.run(["status", "--cache-dir", str(cache)]) == 0
    assert "internal" not in capsys.readouterr().err
    lease = take(directory, Claim(run=None, rank=0, host="n", pid=1), 0.05, lambda _: True)
    assert lease is not None
    with lease:
        assert os.listdir(directory.home) == ["train.lease.8"]


@pytest.mark.parametrize("generation", ["\u00b2", "\u0663", "01", "-1", "1.5", "9" * 200, " 1", ""])
def test_another_name_is_no_lease(cache: Path, generation: str) -> None:
    """Digits of other scripts, zeros in front and numbers beyond all counting: it isn't read."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    (directory.home / f"train.lease.{generation}").write_bytes(b"{}")
    assert holder(directory) is None
    assert cli.run(["status", "--cache-dir", str(cache)]) == 0
    lease = take(directory, Claim(run=None, rank=0, host="n", pid=1), 60, lambda _: False)
    assert lease is not None
    with lease:
        assert leases._generations(directory) == [1]


def test_a_planted_second_name_of_a_lease_is_not_written_through(
    cache: Path, tmp_path: Path
) -> None:
    """A hard link of another file under the lease's name stays as it is; the holder learns it."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    lease = take(directory, Claim(run=None, rank=0, host="n", pid=1), 60, lambda _: False)
    assert lease is not None
    (tmp_path / "precious").write_bytes(b"precious")
    (directory.home / "train.lease.1").unlink()
    (directory.home / "train.lease.1").hardlink_to(tmp_path / "precious")
    with pytest.raises(Exception, match="no file of its own"):
        lease._heartbeat()
    with lease:
        pass
    assert (tmp_path / "precious").read_bytes() == b"precious"
