"""What a training script does: initialise its process group, get the samples, feed the tokenize step."""

import sys

import torch.distributed as dist

from step37_flickr8k import MultimodalSFTSample, Step37Flickr8kDataset, prepare_flickr8k_samples


def template(dialog: dict) -> MultimodalSFTSample:  # type: ignore[type-arg]
    """Stand in for a tokenizer: characters are tokens, and the loss counts the answer's alone."""
    prompt, answer = (turn["content"] for turn in dialog["conversations"])
    return {
        "tokens": [ord(letter) for letter in prompt + answer],
        "loss_mask": [0.0] * len(prompt) + [1.0] * len(answer),
        "image_paths": [(path, "image") for path in dialog["images"]],
    }


dist.init_process_group("gloo")
samples = prepare_flickr8k_samples(sample_count=None, cache_dir=sys.argv[1])
dataset = Step37Flickr8kDataset(samples, template, "Describe the picture.")
mine = range(dist.get_rank(), len(dataset), dist.get_world_size())
for index in mine[:2]:
    tokens = len(dataset[index]["tokens"])
    who = f"rank {dist.get_rank()} of {dist.get_world_size()}"
    print(f"{who}: {len(dataset):,} samples; {samples[index].caption!r}, {tokens} tokens")
dist.destroy_process_group()
