"""What the cases share: the API, a dataset, its Hub on the control plane's address, a namespace with a volume."""

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import captioned, picture, write_rows
from tests.helpers.failure_logs import on_failure
from tests.k8s.rig import HUB_HOST, Api, Job, Room

COUNT = 40
ALL = {f"{number:04}.jpg" for number in range(COUNT)}
LAST = {f"{number:04}.jpg" for number in range(30, COUNT)}
HELD = "train/003*.jpg"  # those


@pytest.fixture(scope="session")
def api() -> Iterator[Api]:
    """Reach the API server."""
    made = Api()
    yield made
    made.end()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a dataset."""
    directory = tmp_path_factory.mktemp("dataset")
    (directory / "train").mkdir()
    for number in range(COUNT):
        (directory / "train" / f"{number:04}.jpg").write_bytes(picture(number))
    write_rows(directory / "train", [captioned(number) for number in range(COUNT)])
    return directory


@pytest.fixture
def hub(dataset: Path) -> Iterator[LocalHub]:
    """Serve it where pods reach it."""
    with LocalHub(dataset, host=HUB_HOST) as serving:
        yield serving


MakeRoom = Callable[..., Room]


@pytest.fixture
def make_room(
    api: Api, hub: LocalHub, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[MakeRoom]:
    """Make namespaces, each with a volume and settings for the Hub, which go with the case."""
    name = (
        re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:50].strip("-")
        + f"-{secrets.token_hex(2)}"
    )
    made: list[Room] = []

    def make(**settings: str) -> Room:
        scratch = tmp_path / f"overlays-{len(made)}"
        scratch.mkdir()
        settings = {"STEP37_ENDPOINT": hub.endpoint, **settings}
        made.append(Room(api, f"{name}-{len(made)}" if made else name, scratch, settings))
        on_failure(request, made[-1].write_logs)
        return made[-1]

    yield make
    for room in made:
        room.end()


@pytest.fixture
def room(make_room: MakeRoom) -> Room:
    """Make one."""
    return make_room()


def fetched(hub: LocalHub) -> Counter[str]:
    """Count how often the Hub sent each image's bytes."""
    names = [Path(one.repo_path) for one in hub.file_requests()]
    return Counter(path.name for path in names if path.suffix == ".jpg")


def hold(hub: LocalHub, room: Room) -> None:
    """Let the last ten images not come before the faults are cleared: the Hub asks to come again in 3 s."""
    hub.faults.add(Fault.status(503, retry_after=3, path=HELD))
    room.settings["STEP37_ATTEMPTS"] = "100"  # so that rank 0 doesn't give up meanwhile


def until_held(job: Job) -> None:
    """Wait until the download stands in its middle and all ranks are there."""
    job.until(lambda: job.room.kept() >= ALL - LAST, "the middle of the download")
    assert job.room.kept() == ALL - LAST, job.everything


def until_all_wait(job: Job, ranks: int = 4) -> None:
    """Wait until every waiter has met rank 0, whose progress it then tells."""
    until_held(job)
    job.until(
        lambda: all(
            job.of(rank) and "fetching" in job.of(rank)[-1].log for rank in range(1, ranks)
        ),
        "ranks that wait",
    )


def assert_whole(hub: LocalHub, room: Room) -> None:
    """Check that the cache holds every byte of the split."""
    assert room.kept() == ALL
    for path in (room.directory / "train").iterdir():
        assert path.read_bytes() == (hub.directory / "train" / path.name).read_bytes(), path


def assert_ready(job: Job, *ranks: int) -> None:
    """Check each rank's last pod: it ended with 0 and told so."""
    for rank in ranks:
        pod = job.of(rank)[-1]
        assert f"ready: {COUNT} rows" in pod.log, job.everything
        assert pod.end.get("exitCode", 0) == 0, job.everything
