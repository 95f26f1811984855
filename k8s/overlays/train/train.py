"""What a training rank does: join its group, get the samples that the warmup made ready, feed the tokenize step."""

import os
import signal
import sys

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


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # process 1 of a container ignores what it has no handler for
asked = load_settings({}, environ=os.environ).settings  # the warmup's own ConfigMap: the same selection

dist.init_process_group("gloo")  # RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are the Job's
samples = prepare_flickr8k_samples(
    repo_id=asked.repo_id,
    revision=asked.revision,
    split=asked.split,
    sample_count=asked.sample_count,
    caption_key=asked.caption_key,
    cache_dir=str(asked.cache_dir),
)
dataset = Step37Flickr8kDataset(samples, template, "Describe the picture.")
for index in range(dist.get_rank(), len(dataset), dist.get_world_size())[:2]:
    who, tokens = f"rank {dist.get_rank()} of {dist.get_world_size()}", len(dataset[index]["tokens"])
    print(f"{who}: {len(dataset):,} samples; {samples[index].caption!r}, {tokens} tokens")
dist.destroy_process_group()
