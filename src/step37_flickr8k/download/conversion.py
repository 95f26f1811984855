"""The Hub's Parquet conversion of a split: whether it can be read here, and whether it pays."""

import importlib.util
import logging
from collections.abc import Sequence

from step37_flickr8k.dataset.decide import Decision
from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.errors import InvalidSettings, Step37Error
from step37_flickr8k.hub.api import Hub
from step37_flickr8k.settings.options import FetchOptions

__all__ = ["MANY", "choose_shards", "is_available"]

log = logging.getLogger("step37_flickr8k")

MANY = 100  # images: for fewer the conversion isn't listed


def is_available() -> bool:
    """Return whether pyarrow is installed; it isn't loaded for that, nor ever in this process."""
    return importlib.util.find_spec("pyarrow") is not None


def choose_shards(
    hub: Hub, split: str, decision: Decision, options: FetchOptions
) -> Sequence[RemoteFile]:
    """Return the Parquet files to read; none where the images are fetched file by file.

    Raises `InvalidSettings` if the setting asks for what can't be had.
    """
    if options.mode == "files":
        return ()
    available = is_available()
    if options.mode == "auto":
        return _shards_that_pay(hub, split, decision) if available else ()
    if not available:
        raise InvalidSettings(
            "fetch_mode=parquet needs pyarrow: pip install pyarrow, or choose auto"
        )
    if not decision.fetch:
        return ()
    if not (shards := hub.list_parquet(split)):
        raise InvalidSettings(
            f"fetch_mode=parquet, but {hub.name} has no Parquet conversion of {split}: choose auto"
            " or files"
        )
    return shards


def _shards_that_pay(hub: Hub, split: str, decision: Decision) -> Sequence[RemoteFile]:
    """Return the Parquet files if at least half of their bytes are wanted.

    Nobody asked for them: if they can't be listed, the images are fetched file by file.
    """
    if len(decision.fetch) < MANY:
        return ()
    try:
        shards = hub.list_parquet(split)
    except Step37Error as error:
        log.warning(
            "the Parquet conversion can't be listed, so the images come file by file: %s", error
        )
        return ()
    return shards if 2 * decision.bytes >= sum(shard.size for shard in shards) else ()
