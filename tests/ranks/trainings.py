"""A training script as people write it with accelerate or Fabric: ``trainings.py HOW DIRECTORY``.

`test_libraries` starts it with each of their launchers. Every rank prepares the samples in each
idiom of its library, on a cold cache and then on the warm one, and writes what came out of it.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from step37_flickr8k import prepare_flickr8k_samples

RANKS = 2

Prepare = Callable[[], int]
Idiom = Callable[[Prepare], int]


def of_accelerate() -> Iterator[Idiom]:
    """Yield the idioms of accelerate."""
    from accelerate import PartialState

    state = PartialState(cpu=True)

    def main_process_first(prepare: Prepare) -> int:
        with state.main_process_first():
            return prepare()

    def local_main_process_first(prepare: Prepare) -> int:
        with state.local_main_process_first():
            return prepare()

    def on_main_process_then_on_all(prepare: Prepare) -> int:
        state.on_main_process(prepare)()
        state.wait_for_everyone()
        return prepare()

    yield from (main_process_first, local_main_process_first, on_main_process_then_on_all)


def of_fabric(fabric: Any) -> Iterator[Idiom]:
    """Yield the idioms of a Fabric that has launched its ranks."""

    def rank_zero_first(prepare: Prepare) -> int:
        with fabric.rank_zero_first():
            return prepare()

    def rank_zero_of_each_node_first(prepare: Prepare) -> int:
        with fabric.rank_zero_first(local=True):
            return prepare()

    def prepare_data_then_setup(prepare: Prepare) -> int:
        if fabric.is_global_zero:
            prepare()
        fabric.barrier()
        return prepare()

    yield from (rank_zero_first, rank_zero_of_each_node_first, prepare_data_then_setup)


def train(idioms: Iterator[Idiom], directory: Path) -> None:
    """Use each idiom twice; write its samples and its seconds, by its name."""
    import torch.distributed as dist

    said: dict[str, list[tuple[int, float]]] = {}
    for idiom in idioms:
        cache = directory / idiom.__name__

        def prepare(cache: Path = cache) -> int:
            return len(prepare_flickr8k_samples(cache_dir=str(cache)))

        said[idiom.__name__] = []
        for _ in ("cold", "warm"):
            start = time.monotonic()
            said[idiom.__name__].append((idiom(prepare), time.monotonic() - start))
    place = f"{dist.get_rank()} of {dist.get_world_size()}"
    (directory / f"{place}.json").write_text(json.dumps(said), encoding="utf-8")


def accelerated(directory: Path) -> None:
    """Be a rank that accelerate's launcher, torchrun or mpirun has started."""
    train(of_accelerate(), directory)


def notebook(directory: Path) -> None:
    """Fork the ranks as a notebook with accelerate does."""
    from accelerate import notebook_launcher

    notebook_launcher(
        accelerated, (directory,), num_processes=RANKS, use_port="0", rdzv_backend="c10d"
    )


def fabric(directory: Path) -> None:
    """Let Fabric start this script once more for each further rank."""
    from lightning_fabric import Fabric

    one = Fabric(accelerator="cpu", devices=RANKS, strategy="ddp")
    one.launch()
    train(of_fabric(one), directory)


def forked_fabric(directory: Path) -> None:
    """Let Fabric fork the ranks."""
    from lightning_fabric import Fabric

    def launched(one: Any) -> None:
        train(of_fabric(one), directory)

    Fabric(accelerator="cpu", devices=RANKS, strategy="ddp_fork").launch(launched)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
