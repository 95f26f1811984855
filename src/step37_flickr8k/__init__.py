"""Downloads an image-caption dataset once for all ranks to a file system that they share.

The loader API is `step37_flickr8k.flickr8k_loader`; the command is ``step37-flickr8k``.

Public names are imported when they are first used (PEP 562). Importing the package imports none of
torch, huggingface_hub, Pillow, aiohttp and pydantic.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_ERRORS = {"ConfigurationError", "RankZeroLost", "Step37Error", "TransientError"}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "errors" if name in _ERRORS else "flickr8k_loader"
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
