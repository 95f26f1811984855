"""What these tests share: a dataset of some size, its Hub, and what is right in a cache."""

import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from step37_flickr8k.localhub import LocalHub
from tests.conftest import captioned, write_rows
from tests.sharedfs.nodes import LatentMount, Node, NodeRanks, own_mounts

COUNT = 40  # pictures of some 15 KB each
MakeNodes = Callable[..., list[LatentMount]]
MakeJob = Callable[..., NodeRanks]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw pictures that can't be compressed."""
    directory = tmp_path_factory.mktemp("dataset")
    (directory / "train").mkdir()
    for number in range(COUNT):
        out = io.BytesIO()
        noise = random.Random(number).randbytes(128 * 128 * 3)
        Image.frombytes("RGB", (128, 128), noise).save(out, "JPEG", quality=90)
        (directory / "train" / f"{number:04}.jpg").write_bytes(out.getvalue())
    write_rows(directory / "train", [captioned(number) for number in range(COUNT)])
    return directory


@pytest.fixture
def hub(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Serve the dataset, and point the environment to it."""
    with LocalHub(dataset) as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.endpoint)
        yield serving


@pytest.fixture(scope="session")
def _needs_fuse() -> None:
    """Skip where nothing can be mounted, and say what would help."""
    if os.geteuid() != 0:
        pytest.skip(
            "it mounts file systems: run `make test-sharedfs` as root, in a container for example"
        )
    if shutil.which("fusermount3") is None:
        pytest.skip("libfuse 3 is missing: apt-get install fuse3")
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.skip(
            f"/dev/fuse can't be opened ({error.strerror}): modprobe fuse, or give the container --device /dev/fuse"
        )
    try:
        own_mounts()
    except OSError as error:
        pytest.skip(
            f"no mounts of its own ({error.strerror}): give the container --cap-add SYS_ADMIN"
        )


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    """Name the directory behind all nodes."""
    directory = tmp_path / "backing"
    directory.mkdir()
    return directory


@pytest.fixture
def nodes(_needs_fuse: None, tmp_path: Path, backing: Path) -> Iterator[MakeNodes]:
    """Make nodes: FUSE mounts of the backing directory with the given options."""
    made: list[LatentMount] = []

    def make(*options: str, count: int = 2) -> list[LatentMount]:
        for number in range(count):
            made.append(LatentMount(backing, tmp_path / f"node-{number}", *options))
        return made

    yield make
    for mount in made:
        mount.end()


@pytest.fixture
def job(nodes: MakeNodes, tmp_path: Path) -> Iterator[MakeJob]:
    """Make jobs of one rank per node, which all see their node's mount at one path."""
    del nodes  # which are to be unmounted after the ranks have ended
    made: list[NodeRanks] = []
    shared = tmp_path / "shared"
    shared.mkdir()

    def make(mounts: list[LatentMount], **environment: str) -> NodeRanks:
        places = [Node(name=mount.mount.name, mount=mount.mount) for mount in mounts]
        made.append(NodeRanks(places, shared, tmp_path / f"job-{len(made)}", environment))
        return made[-1]

    yield make
    for one in made:
        one.end()


def images(directory: Path) -> list[str]:
    """Give the names of the images that lie in a directory."""
    return sorted(path.name for path in directory.iterdir() if path.suffix == ".jpg")


def assert_whole(hub: LocalHub, *caches: Path, count: int = COUNT) -> None:
    """Check that every byte of every file is the Hub's, through each of these views of the cache, and nothing else lies there."""
    for cache in caches:
        assert len(images(cache / "train")) == count
        assert_nothing_torn(hub, cache)


def assert_nothing_torn(hub: LocalHub, cache: Path) -> None:
    """Check that what has its final name is right, and that nothing unfinished stays."""
    for path in (cache / "train").iterdir():
        assert path.read_bytes() == (hub.directory / "train" / path.name).read_bytes(), (
            f"{path} is torn"
        )
    assert not list((cache / ".step37-flickr8k").glob("*.tmp"))


def fetched(hub: LocalHub) -> list[str]:
    """Give the images that the Hub has sent, each as often as it was."""
    return sorted(
        request.repo_path for request in hub.file_requests() if request.repo_path.endswith(".jpg")
    )
