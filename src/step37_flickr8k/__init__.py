"""Fills a shared cache with the image-caption dataset ``intro/flickr8k``, and reads it on every rank.

One downloads, all know; what is there is right; cheap to be many. The loader API is that of `step37_flickr8k.flickr8k_loader`.
Importing this imports neither torch nor huggingface_hub nor Pillow.
"""

from step37_flickr8k.errors import (
    ConfigurationError,
    RankZeroLost,
    Step37Error,
    TransientError,
)
from step37_flickr8k.flickr8k_loader import (
    Flickr8kSample,
    MultimodalSFTSample,
    Step37Flickr8kDataset,
    Template,
    get_flickr8k_dataset_file,
    prepare_flickr8k_samples,
)

__version__ = "0.1.0.dev0"

__all__ = [
    "ConfigurationError",
    "Flickr8kSample",
    "MultimodalSFTSample",
    "RankZeroLost",
    "Step37Error",
    "Step37Flickr8kDataset",
    "Template",
    "TransientError",
    "get_flickr8k_dataset_file",
    "prepare_flickr8k_samples",
]
