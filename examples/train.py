"""What a training rank does: join its group, get the samples that the warmup made ready, tokenize them, train on its share.

    torchrun --nproc-per-node=2 examples/train.py --tokenizer FOLDER

It runs on CPUs and trains next to nothing: to be read, and changed into yours. The samples are
those of the command's settings (STEP37_CACHE_DIR, STEP37_SAMPLE_COUNT...; --settings), so that it
selects what the warmup made ready; yours would rather pass arguments of its own, and needs neither
`load_settings` nor `World`. A cache that is ready needs no Hub.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from step37_template import ByteTokenizer, Step37Template, collate
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from step37_flickr8k import (
    Flickr8kSample,
    Step37Error,
    Step37Flickr8kDataset,
    prepare_flickr8k_samples,
)
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.settings import load_settings

EPOCHS = 2
BATCH_SIZE = 4


def prepared(settings: Path | None) -> list[Flickr8kSample]:
    """Give the samples, the same list on every rank; where they aren't ready yet, rank 0 downloads them first."""
    if settings is not None:
        # Where the library reads what isn't an argument: the Hub, the timeouts
        os.environ["STEP37_SETTINGS"] = str(settings)
    asked = load_settings({}, environ=os.environ).settings
    return prepare_flickr8k_samples(
        repo_id=asked.repo_id,
        # What is there, without asking what main is now
        revision=None if asked.revision == "main" else asked.revision,
        split=asked.split,
        sample_count=asked.sample_count,
        caption_key=asked.caption_key,
        cache_dir=str(asked.cache_dir),
        bad_images=asked.bad_images,
    )


def load_tokenizer(directory: Path | None) -> Any:
    """Load a tokenizer of transformers from its directory, without the network and without code of its own."""
    if directory is None:
        return ByteTokenizer()
    from transformers import AutoTokenizer  # noqa: PLC0415 - an extra: pip install '.[transformers]'

    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def train(batches: "DataLoader[Any]", tokens: int, who: str) -> None:
    """Train a model that guesses a token from the one before, and say what went through it."""
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Embedding(tokens, 16), torch.nn.Linear(16, tokens))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for epoch in range(EPOCHS):
        batches.sampler.set_epoch(epoch)  # another order, another share
        samples, real, counting = 0, 0, 0
        # A real model takes batch["image_paths"], too: one picture for each <im_start>
        for batch in batches:
            if epoch == samples == 0:
                shapes = " ".join(
                    f"{name} {[*value.shape]}"
                    for name, value in batch.items()
                    if name != "image_paths"
                )
                print(f"{who}: a batch: {shapes}")
            before, after = batch["input_ids"][:, :-1], batch["labels"][:, 1:]
            counts = after != -100
            loss = torch.nn.functional.cross_entropy(model(before[counts]), after[counts])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            samples += len(before)
            real += int(batch["attention_mask"].sum())
            counting += int(counts.sum())
        print(
            f"{who}: epoch {epoch}: {samples:,} samples, {real:,} tokens, {counting:,} of them count; last loss {loss:.2f}"
        )


def main() -> None:
    """Be a rank of torchrun, of a SLURM step or of a Kubernetes Job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="the file that the warmup was given"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="a tokenizer of transformers (default: bytes)",
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes of each rank that tokenize (default: 2)"
    )
    arguments = parser.parse_args()
    if arguments.tokenizer is not None and not arguments.tokenizer.is_dir():
        parser.error(
            f"--tokenizer {arguments.tokenizer} is not a directory: name the one with tokenizer.json in it"
        )
    # Process 1 of a container ignores what it has no handler for
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    world = World.from_environment(os.environ)
    # Else at MASTER_ADDR, MASTER_PORT
    meeting = {"store": dist.HashStore()} if world.size == 1 else {}
    dist.init_process_group("gloo", rank=world.rank, world_size=world.size, **meeting)
    samples, tokenizer = prepared(arguments.settings), load_tokenizer(arguments.tokenizer)
    dataset = Step37Flickr8kDataset(samples, Step37Template(tokenizer), "Describe the picture.")
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, world.size, world.rank)
    batches = DataLoader(
        dataset, BATCH_SIZE, sampler=sampler, num_workers=arguments.workers, collate_fn=collate
    )
    who = f"rank {world.rank} of {world.size}"
    print(
        f"{who}: {len(dataset):,} samples; {samples[0].caption!r}, {len(dataset[0]['tokens'])} tokens"
    )
    train(batches, len(tokenizer), who)
    dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except Step37Error as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)  # which schedulers act on: 2 is never tried again
