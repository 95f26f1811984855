"""The programs of docs/how-to/run-on-rank-zero.md, in a gloo group, against the local Hub."""

import importlib.util
import os
import re
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from step37_flickr8k.localhub import LocalHub
from tests.helpers.ranks import Ranks

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run-on-rank-zero.md"
STAND_IN = Path(__file__).parent / "stand_in"
PROGRAMS = dict(
    re.findall(r'^```python title="(\S+)"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL)
)
Start = Callable[..., Ranks]


def run_program(file: str) -> None:
    """Be the program; Hugging Face's constants of the environment are read again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]
    if importlib.util.find_spec("datasets") is None:
        sys.path.insert(0, str(STAND_IN))
    runpy.run_path(file, run_name="__main__")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program of the page on two nodes of two ranks, each with a disk of its own."""
    made: list[Ranks] = []

    def started(name: str, **environment: str) -> Ranks:
        job = Ranks(4, tmp_path / f"job-{len(made)}", environment)
        made.append(job)
        for rank in range(4):
            node = f"{rank // 2}"
            directories = {"lustre": tmp_path / "lustre", "scratch": tmp_path / node}
            text = PROGRAMS[name]
            for own, directory in directories.items():
                directory.mkdir(exist_ok=True)
                text = text.replace(f'"/{own}/', f'"{directory}/')
            file = tmp_path / f"{node}-{name}"
            file.write_text(text)
            place = {"LOCAL_RANK": f"{rank % 2}", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": node}
            job.start_program(rank, run_program, str(file), **place)
        return job

    yield started
    for job in made:
        job.end()


def ended_well(job: Ranks) -> list[str]:
    """Return the last line of each rank."""
    assert job.wait() == dict.fromkeys(range(4), 0), "\n".join(map(job.log, range(4)))
    return [job.log(rank).splitlines()[-1] for rank in range(4)]


def test_a_model_is_downloaded_once(tmp_path: Path, start: Start) -> None:
    """Each file of the model repository is sent once, and every rank has the path."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(os.urandom(1000))
    with LocalHub(model, repo_id="team/captioner", repo_type="model") as hub:
        lines = ended_well(start("fetch_model.py", HF_ENDPOINT=hub.endpoint))
        assert sorted(each.repo_path for each in hub.file_requests()) == [
            "config.json",
            "model.safetensors",
        ]
    copy = tmp_path / "lustre" / "team" / "captioner"
    assert lines == [f"rank {rank}: {copy}" for rank in range(4)]
    assert (copy / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_a_dataset_is_loaded_once(hub: LocalHub, tmp_path: Path, start: Start) -> None:
    """Rank 0 downloads and converts it; every rank opens what it has written."""
    job = start("prepare_dataset.py", HF_HOME=str(tmp_path / "home"))
    assert ended_well(job) == [f"rank {rank}: 12 rows" for rank in range(4)]
    assert {"downloading", "writing 12 rows"} <= {*job.log(0).splitlines()}
    served = Counter(each.repo_path for each in hub.file_requests())
    assert served["train/metadata.csv"] == max(served.values()) == 1


def test_a_tokenizer_is_built_once_on_each_node(
    hub: LocalHub, tmp_path: Path, start: Start
) -> None:
    """Local rank 0 of each node builds it on its own disk, from samples that were fetched once."""
    lines = ended_well(start("build_tokenizer.py"))
    assert len({line.partition(": ")[2] for line in lines}) == 1
    assert re.fullmatch(r"rank 3: \d\d+ tokens", lines[3])
    assert [(tmp_path / node / "tokenizer.json").is_file() for node in "01"] == [True] * 2
    assert len(hub.file_requests()) == 13


def test_every_program_of_the_page_is_run() -> None:
    """A program that is added to the page needs a test here."""
    assert [*PROGRAMS] == ["fetch_model.py", "prepare_dataset.py", "build_tokenizer.py"]
