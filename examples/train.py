"""A training rank: it joins its group, gets the prepared samples, tokenizes its share and trains.

    torchrun --nproc-per-node=2 examples/train.py --tokenizer DIRECTORY

It runs on CPUs and trains a tiny model: read it and adapt it. The samples are those of the
command's settings (STEP37_CACHE_DIR, STEP37_SAMPLE_COUNT...; --settings), so that it selects
what the warmup prepared. Your own script would pass its own arguments, and needs neither
`load_settings` nor `World`. A ready cache needs no Hub.
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
    """Return the samples, the same list on every rank; rank 0 downloads what is missing."""
    if settings is not None:
        # The library reads settings that aren't arguments from this file: the Hub, the timeouts
        os.environ["STEP37_SETTINGS"] = str(settings)
    asked = load_settings({}, environ=os.environ).settings
    return prepare_flickr8k_samples(
        repo_id=asked.repo_id,
        # None: accept the cached commit without asking the Hub for main
        revision=None if asked.revision == "main" else asked.revision,
        split=asked.split,
        sample_count=asked.sample_count,
        caption_key=asked.caption_key,
        cache_dir=str(asked.cache_dir),
        bad_images=asked.bad_images,
    )


def load_tokenizer(directory: Path | None) -> Any:
    """Return a tokenizer of transformers, read without the network and without running its code."""
    if directory is None:
        return ByteTokenizer()
    # An extra: pip install '.[transformers]'
    from transformers import AutoTokenizer  # noqa: PLC0415

    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def train(batches: "DataLoader[Any]", tokens: int, who: str) -> None:
    """Train a model that predicts the next token; print each epoch's counts and loss."""
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Embedding(tokens, 16), torch.nn.Linear(16, tokens))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for epoch in range(EPOCHS):
        batches.sampler.set_epoch(epoch)  # another order, another share
        samples, real, counting = 0, 0, 0
        # A real model takes batch["image_paths"], too: one image for each <im_start>
        for batch in batches:
            if epoch == samples == 0:
                shapes = " ".join(
                    f"{name} {[*value.shape]}"
                    for name, value in batch.items()
                    if name != "image_paths"
                )
                say(f"{who}: a batch: {shapes}")
            before, after = batch["input_ids"][:, :-1], batch["labels"][:, 1:]
            counts = after != -100
            loss = torch.nn.functional.cross_entropy(model(before[counts]), after[counts])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            samples += len(before)
            real += int(batch["attention_mask"].sum())
            counting += int(counts.sum())
        say(
            f"{who}: epoch {epoch}: {samples:,} samples, {real:,} tokens, "
            f"{counting:,} of them count; last loss {loss:.2f}"
        )


def say(line: str) -> None:
    """Print a line in one write, so that no other rank's can stand within it."""
    print(f"{line}\n", end="", flush=True)


def main() -> None:
    """Run a rank of torchrun, of a SLURM step or of a Kubernetes Job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="the file that the warmup was given"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIRECTORY",
        help="a tokenizer of transformers (default: bytes)",
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes of each rank that tokenize (default: 2)"
    )
    arguments = parser.parse_args()
    if arguments.tokenizer is not None and not arguments.tokenizer.is_dir():
        parser.error(
            f"--tokenizer {arguments.tokenizer} is not a directory: "
            "name the one with tokenizer.json in it"
        )
    # Process 1 of a container ignores what it has no handler for
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    world = World.from_environment(os.environ)
    # A single rank needs no MASTER_ADDR and MASTER_PORT
    store = dist.HashStore() if world.size == 1 else None
    dist.init_process_group("gloo", rank=world.rank, world_size=world.size, store=store)
    samples, tokenizer = prepared(arguments.settings), load_tokenizer(arguments.tokenizer)
    dataset = Step37Flickr8kDataset(samples, Step37Template(tokenizer), "Describe the picture.")
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, world.size, world.rank)
    batches = DataLoader(
        dataset, BATCH_SIZE, sampler=sampler, num_workers=arguments.workers, collate_fn=collate
    )
    who = f"rank {world.rank} of {world.size}"
    say(
        f"{who}: {len(dataset):,} samples; {samples[0].caption!r}, "
        f"{len(dataset[0]['tokens'])} tokens"
    )
    train(batches, len(tokenizer), who)
    dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except Step37Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)  # schedulers act on it: 2 is never retried
