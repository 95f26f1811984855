"""What a training rank does: join its group, get the samples that the warmup made ready, feed the tokenize step."""

import argparse
import os
from pathlib import Path

import torch.distributed as dist

from step37_flickr8k import MultimodalSFTSample, Step37Flickr8kDataset, prepare_flickr8k_samples
from step37_flickr8k.settings import load_settings


def template(dialog: dict) -> MultimodalSFTSample:  # type: ignore[type-arg]
    """Stand in for a tokenizer: characters are tokens, and the loss counts the answer's alone."""
    prompt, answer = (turn["content"] for turn in dialog["conversations"])
    return {
        "tokens": [ord(letter) for letter in prompt + answer],
        "loss_mask": [0.0] * len(prompt) + [1.0] * len(answer),
        "image_paths": [(path, "image") for path in dialog["images"]],
    }


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--settings", type=Path, help="the file that the warmup was given")
asked = load_settings({}, file=parser.parse_args().settings, environ=os.environ).settings  # the same selection as the warmup's

rank, ranks = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
dist.init_process_group("gloo", rank=rank, world_size=ranks)  # meets at MASTER_ADDR, MASTER_PORT
samples = prepare_flickr8k_samples(
    repo_id=asked.repo_id,
    revision=asked.revision,
    split=asked.split,
    sample_count=asked.sample_count,
    caption_key=asked.caption_key,
    cache_dir=str(asked.cache_dir),
)
dataset = Step37Flickr8kDataset(samples, template, "Describe the picture.")
for index in range(rank, len(dataset), ranks)[:2]:
    tokens = len(dataset[index]["tokens"])
    print(f"rank {rank} of {ranks}: {len(dataset):,} samples; {samples[index].caption!r}, {tokens} tokens")
dist.destroy_process_group()
