"""What runs inside of the small machine: ranks on two NFS clients, by NFS 3 and by NFS 4.2, of one server; see `test_nfs.py`.

By hand, for one of them: ``tests/sharedfs/nfs/run .venv/bin/python -m pytest
tests/sharedfs/on_nfs.py -k full``.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.flushing import flushing
from step37_flickr8k.errors import FolderFull
from step37_flickr8k.localhub import Fault, LocalHub
from tests.helpers.ranks import PATIENCE, Ranks
from tests.sharedfs.conftest import COUNT, assert_nothing_torn, assert_whole, fetched, images
from tests.sharedfs.nodes import Node, NodeRanks

HOME = ".step37-flickr8k"
EXPORT = Path("/mnt/export")
NOBODY = 65534
MakeJob = Callable[..., NodeRanks]


@pytest.fixture(params=["v3", "v4.2"])
def version(request: pytest.FixtureRequest) -> str:
    """Name the version of the protocol."""
    return str(request.param)


@pytest.fixture
def hub(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Serve the dataset on the server's address, and point the environment to it."""
    with LocalHub(dataset, host="10.79.0.1") as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.endpoint)
        yield serving


@pytest.fixture(scope="session", autouse=True)
def _torch_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let the process that ranks are forked from import torch, before any clock runs: that takes some 10 s here."""
    ranks = Ranks(1, tmp_path_factory.mktemp("import")).start_all("--version")
    assert ranks.wait() == {0: 0}, ranks.log(0)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name a directory of this test's own on the exports; what lies there ends with the test."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    for export in ("wide", "small"):
        (EXPORT / export / name).mkdir()
        (EXPORT / export / name).chmod(0o1777)
    yield name
    os.system(f"rm -rf {EXPORT}/*/{name}")


def seen_from(node: int, version: str, export: str, place: str) -> Path:
    """Give the directory as a node sees it."""
    return Path(f"/mnt/node{node}/{version}/{export}/{place}")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[MakeJob]:
    """Make jobs of a rank on node1 and one on node2, or as told; all see the export's directory at one path."""
    made: list[NodeRanks] = []
    shared = tmp_path / "shared"
    shared.mkdir()
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(0o755)  # ranks of another user pass through

    def make(
        version: str,
        export: str,
        place: str,
        *,
        nodes: tuple[int, ...] = (1, 2),
        **environment: str,
    ) -> NodeRanks:
        user = int(environment.pop("user", "0"))
        places = [
            Node(
                name=f"node{n}",
                mount=seen_from(n, version, export, place),
                network=f"/run/netns/node{n}",
                user=user,
                read_only=user != 0,
            )
            for n in nodes
        ]
        made.append(NodeRanks(places, shared, tmp_path / f"job-{len(made)}", environment))
        return made[-1]

    yield make
    for one in made:
        one.end()


def warm(ranks: NodeRanks, *arguments: str) -> dict[int, int]:
    """Run warmup on all ranks; give the exit codes."""
    start(ranks, *arguments)
    return ranks.wait()


def start(ranks: NodeRanks, *arguments: str) -> None:
    """Start warmup on all ranks, which meet at rank 0's address."""
    address = {"node1": "10.79.0.11", "node2": "10.79.0.12"}[ranks.nodes[0].name]
    for rank in range(ranks.size):
        ranks.start_command(
            rank,
            "warmup",
            "--cache-dir",
            str(ranks.shared / "cache"),
            *arguments,
            MASTER_ADDR=address,
        )


# --- seen late ------------------------------------------------------------------------------------


def test_the_nodes_are_late(version: str, place: str) -> None:
    """A file that node2 missed and node1 then wrote goes on missing on node2 until it lists the directory: all else rests on it."""
    here, there = (seen_from(node, version, "wide", place) for node in (1, 2))
    assert not (there / "file").exists()
    (here / "file").write_bytes(b"content")
    time.sleep(1)
    assert (EXPORT / "wide" / place / "file").exists()
    assert not (there / "file").exists()
    assert "file" in os.listdir(there)
    assert (there / "file").read_bytes() == b"content"


EVERYTHING = [
    "",
    HOME,
    "train",
    f"{HOME}/train.json",
    f"{HOME}/train.manifest",
    "train/metadata.csv",
    "train/0000.jpg",
    "train/0039.jpg",
]


@pytest.mark.parametrize("there", ["", f"cache/{HOME}"])
def test_a_node_that_looked_too_early_sees_the_cache_at_once(
    hub: LocalHub, job: MakeJob, version: str, place: str, there: str
) -> None:
    """A waiter's node that goes on missing every name, for longer than anybody waits, is ready."""
    export = EXPORT / "wide" / place
    (export / there).mkdir(parents=True, exist_ok=True)
    ranks = job(version, "wide", place)
    late = seen_from(2, version, "wide", place)
    early = [name for name in EVERYTHING if not (export / "cache" / name).exists()]
    assert not any((late / "cache" / name).exists() for name in early)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert_whole(hub, export / "cache", late / "cache")
    assert len(fetched(hub)) == COUNT


def test_a_cache_that_grows_is_seen_by_a_node_that_knows_it(
    hub: LocalHub, job: MakeJob, version: str, place: str
) -> None:
    """A node that has read a cache of 10 rows sees that of 40 as soon as it is there."""
    late = seen_from(2, version, "wide", place) / "cache"
    for count, rows in (("10", 10), ("all", COUNT)):
        ranks = job(version, "wide", place)
        assert warm(ranks, "--sample-count", count) == {0: 0, 1: 0}, ranks.logs
        assert_whole(hub, EXPORT / "wide" / place / "cache", late, count=rows)
    assert len(fetched(hub)) == COUNT


def test_two_jobs_on_two_nodes_download_once(
    hub: LocalHub, job: MakeJob, version: str, place: str
) -> None:
    """The lease, taken by a link, holds between NFS clients: one job downloads, the other waits for it."""
    hub.faults.add(Fault.delay(0.1))
    jobs = [
        job(version, "wide", place, nodes=(node,), STEP37_RUN_ID=f"job-{node}") for node in (1, 2)
    ]
    for one in jobs:
        start(one, "--concurrency", "4", "--heartbeat-timeout", "30")
    assert [one.wait() for one in jobs] == [{0: 0}, {0: 0}], jobs[0].logs + jobs[1].logs
    assert len(fetched(hub)) == COUNT
    assert_whole(hub, *(seen_from(node, version, "wide", place) / "cache" for node in (1, 2)))


# --- full -----------------------------------------------------------------------------------------


@pytest.fixture
def ballast(place: str) -> Iterator[Callable[[int], None]]:
    """Fill the small export, on the server, but for so many bytes; its end frees them."""
    file = EXPORT / "small" / place / "ballast"
    deadline = time.monotonic() + PATIENCE
    # The server still holds deleted files for a while
    while (space := os.statvfs(EXPORT / "small")).f_bfree < space.f_blocks:
        assert time.monotonic() < deadline, "the export isn't empty"
        time.sleep(0.2)

    def fill(left: int) -> None:
        with file.open("wb", buffering=0) as out:
            space = os.statvfs(file)
            while (room := space.f_bavail * space.f_frsize - left) > 0:
                out.write(bytes(min(room, 1 << 16)))
                space = os.statvfs(file)

    yield fill
    file.unlink(missing_ok=True)


def test_a_full_disk_shows_only_at_the_end_of_a_file(version: str, place: str) -> None:
    """Writing 2 MB to 1 MB succeeds and closing fails: else the next test says less than it should."""
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - where it is raised is the point
        descriptor = os.open(
            seen_from(1, version, "small", place) / "big", os.O_WRONLY | os.O_CREAT
        )
        try:
            for _ in range(32):
                assert os.write(descriptor, bytes(1 << 16)) == 1 << 16
        finally:
            os.close(descriptor)


def test_an_export_that_fills_up(
    hub: LocalHub, job: MakeJob, version: str, place: str, ballast: Callable[[int], None]
) -> None:
    """Full in the middle: 75 and the remedy on all ranks, nothing torn; with space again the next run brings the rest."""
    cache = EXPORT / "small" / place / "cache"
    # The others wait for the ballast, however long that takes
    hub.faults.add(Fault.status(503, path="train/00[1-3]*.jpg"))
    ranks = job(version, "small", place, STEP37_HEARTBEAT_TIMEOUT="15")
    start(ranks, "--concurrency", "2", "--attempts", "100")
    deadline = time.monotonic() + PATIENCE
    while len([*cache.glob("train/*.jpg")]) < 10:
        assert time.monotonic() < deadline, ranks.logs
        time.sleep(0.1)
    ballast(100_000)
    hub.faults.clear()
    assert ranks.wait() == {0: 75, 1: 75}, ranks.logs
    for line in ranks.last_words():
        assert str(ranks.shared / "cache") in line, line
        assert "free space" in line, line
    kept = images(cache / "train")
    assert 0 < len(kept) < COUNT
    assert_nothing_torn(hub, cache)
    assert not (cache / HOME / "train.json").exists()
    (cache.parent / "ballast").unlink()
    hub.clear_requests()
    ranks = job(version, "small", place, STEP37_HEARTBEAT_TIMEOUT="15")
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert fetched(hub) == [
        f"train/{number:04}.jpg" for number in range(COUNT) if f"{number:04}.jpg" not in kept
    ]
    assert_whole(hub, cache, seen_from(2, version, "small", place) / "cache")


def test_own_files_are_whole_or_not_there(
    version: str, place: str, ballast: Callable[[int], None]
) -> None:
    """Written to a full export, a file of ours is FolderFull and no name; with space again it is whole on the server."""
    directory = CacheDirectory(seen_from(1, version, "small", place) / "cache", "train")
    served = EXPORT / "small" / place / "cache" / HOME
    directory.make()
    directory.write("train.json", b"before")
    ballast(8_192)
    content = os.urandom(100_000)
    for write in (directory.write, directory.create):
        with pytest.raises(FolderFull, match="free space"):
            write("train.json", content)
    assert (served / "train.json").read_bytes() == b"before"
    deadline = time.monotonic() + PATIENCE
    # What was deleted while it was being written keeps a name .nfs... for a moment
    while os.listdir(served) != ["train.json"]:
        assert time.monotonic() < deadline, os.listdir(served)
        time.sleep(0.1)
    (EXPORT / "small" / place / "ballast").unlink()
    directory.write("train.json", content)
    assert (served / "train.json").read_bytes() == content


def test_what_is_not_closed_yet_is_durable_after_a_flush(version: str, place: str) -> None:
    """Flushing a directory brings every byte that this node has written to the server, closed or not."""
    directory = CacheDirectory(seen_from(1, version, "wide", place) / "cache", "train")
    served = EXPORT / "wide" / place / "cache" / "train"
    directory.make()
    content = os.urandom(300_000)
    with flushing(directory) as flush, (directory.files / "open").open("wb", buffering=0) as out:
        out.write(content)
        # It is in this node's memory: else the flush shows nothing
        assert (served / "open").read_bytes() != content
        flush()
        assert (served / "open").read_bytes() == content


def test_a_flush_that_brings_a_full_disk_to_light(version: str, place: str) -> None:
    """What syncfs can't write is FolderFull at the latest when the file is closed; nothing goes by in silence."""
    directory = CacheDirectory(seen_from(1, version, "small", place) / "cache", "train")
    directory.make()
    with (  # noqa: PT012
        flushing(directory) as flush,
        pytest.raises(FolderFull),
        directory.writing(directory.files / "big") as out,
    ):
        for _ in range(32):
            out.write(bytes(1 << 16))
        flush()


# --- read by others -------------------------------------------------------------------------------


def test_another_user_reads_the_warm_cache_from_a_read_only_mount(
    hub: LocalHub, job: MakeJob, version: str, place: str
) -> None:
    """What root has warmed on node1, nobody finds warm on node2's read-only mount, and asks the Hub for no file."""
    ranks = job(version, "wide", place)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    hub.clear_requests()
    reader = job(version, "wide", place, nodes=(2,), user=str(NOBODY), HF_HOME="/nowhere")
    assert warm(reader) == {0: 0}, reader.logs
    assert '"warm": true' in reader.log(0)
    assert not fetched(hub)
