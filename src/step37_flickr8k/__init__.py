"""Downloads an image-caption dataset once for all ranks to a file system that they share.

The loader API is `step37_flickr8k.flickr8k_loader`; the command is ``step37-flickr8k``. Any other
work runs once for all ranks with `step37_flickr8k.rank_zero`.

Public names are imported when they are first used (PEP 562). Importing the package imports none of
torch, huggingface_hub, Pillow, aiohttp and pydantic.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from step37_flickr8k.cluster.protocol.keys import Timeouts
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
    from step37_flickr8k.rank_zero import run_on_rank_zero

__version__ = "0.1.0.dev0"

__all__ = [
    "ConfigurationError",
    "Flickr8kSample",
    "MultimodalSFTSample",
    "RankZeroLost",
    "Step37Error",
    "Step37Flickr8kDataset",
    "Template",
    "Timeouts",
    "TransientError",
    "get_flickr8k_dataset_file",
    "prepare_flickr8k_samples",
    "run_on_rank_zero",
]

# Where a public name is, if not in the loader
_MODULES = {
    "ConfigurationError": "errors",
    "RankZeroLost": "errors",
    "Step37Error": "errors",
    "Timeouts": "cluster.protocol.keys",
    "TransientError": "errors",
    "run_on_rank_zero": "rank_zero",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'flickr8k_loader')}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
