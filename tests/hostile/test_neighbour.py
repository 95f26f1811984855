"""Another user of the group swaps directories at every step: nothing outside is touched."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from step37_flickr8k import cli, errors, prepare_flickr8k_samples
from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw, captioned, picture, write_rows
from tests.helpers.conversion import convert
from tests.helpers.neighbour import Neighbour, neighbour, stepping, tree_of
from tests.hostile.seeds import chance

# Few enough to be done without a worker process, which takes longer than all else
COUNT = 3
# Swaps of each target in each kind of run, spread over its steps; another seed takes other steps
SWAPS = 5


@pytest.fixture(name="neighbour", scope="module")
def _neighbour() -> Iterator[Neighbour]:
    with neighbour() as made:
        yield made


@pytest.fixture
def served(draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Serve images of which one is in a subdirectory."""
    directory = draw(COUNT)
    (directory / "train" / "images").mkdir()
    (directory / "train" / "images" / "0000.jpg").write_bytes(picture(100))
    rows = [captioned(n) for n in range(COUNT - 1)]
    write_rows(directory / "train", [*rows, captioned(9) | {"file_name": "images/0000.jpg"}])
    conversion = convert(directory, tmp_path / "parquet", files=1)
    with LocalHub(directory, parquet=conversion) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def fill(cache: Path) -> None:
    prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))


def command(*arguments: str) -> Callable[[Path], None]:
    def run(cache: Path) -> None:
        assert cli.run([*arguments, "--cache-dir", str(cache)]) in {0, 2, 75}

    return run


def damage(cache: Path) -> None:
    """Leave a warm cache in which a file of each directory is wrong."""
    fill(cache)
    for name in ("0000.jpg", "images/0000.jpg"):
        (cache / "train" / name).write_bytes(b"damaged")


def nothing(_: Path) -> None:
    pass


RUNS = {
    "files": (nothing, fill),
    "parquet": (nothing, fill),
    "repair": (damage, command("verify", "--repair")),
    "status": (fill, command("status")),
}


@pytest.mark.parametrize("target", ["train", "train/images", ".step37-flickr8k", "."])
@pytest.mark.parametrize("run", RUNS)
def test_a_swap_at_any_step_touches_nothing_outside(
    served: LocalHub, neighbour: Neighbour, run: str, target: str
) -> None:
    """Whatever is swapped for a link, before whichever call: what it leads to stays as it was."""
    assert served.commit
    count = swapped(neighbour, run, target, at=0)
    assert count > 5
    first = chance(f"{run} {target}").randrange(1, 4)
    for step in range(first, count + 1, max(1, count // SWAPS)):
        swapped(neighbour, run, target, at=step)


def swapped(neighbour: Neighbour, run: str, target: str, *, at: int) -> int:
    """Make a run with a swap before its call of that number; return how many calls it has."""
    before, main = RUNS[run]
    neighbour.reset()
    private = tree_of(neighbour.victim)

    def swap(number: int) -> None:
        if number == at:
            neighbour.swap(f"cache/{target}".removesuffix("/."))

    with pytest.MonkeyPatch.context() as patch:
        if run == "parquet":
            patch.setenv("STEP37_FETCH_MODE", "parquet")
        before(neighbour.cache)
        # Where the cache directory itself is, its path says until it is opened
        counted = stepping(patch, swap, since="hold" if target == "." and run != "status" else "")
        with contextlib.suppress(errors.FolderNotUsable):
            main(neighbour.cache)
    assert tree_of(neighbour.victim) == private, (run, target, at)
    return counted()
