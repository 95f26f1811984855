"""What a run is asked to do."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from step37_flickr8k.cache.verify import Check
from step37_flickr8k.cluster.protocol.keys import Timeouts
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.settings import FetchOptions, HubOptions, WarmupSettings

__all__ = ["Task"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run is asked to do: the selection, where it goes, and how; timeouts in seconds.

    ``check`` is what a warm start compares with the manifest: size and mtime of all files, or
    their names.
    """

    selection: Selection
    cache_dir: Path
    cache_scope: Literal["shared", "node"] = "shared"
    bad_images: Literal["skip", "error"] = "skip"
    check: Check = "all"
    fetch: FetchOptions = field(default_factory=FetchOptions)
    hub: HubOptions = field(default_factory=HubOptions)
    timeouts: Timeouts = field(default_factory=Timeouts)

    @classmethod
    def from_settings(
        cls,
        settings: WarmupSettings,
        *,
        connection: WarmupSettings | None = None,
        check: Check = "all",
    ) -> "Task":
        """Return the task that settings describe.

        In a library call the selection comes from the call's arguments, all else from
        ``connection``.
        """
        rest = connection or settings
        return cls(
            selection=replace(settings.selection(), max_pixels=rest.max_pixels),
            cache_dir=settings.cache_dir,
            cache_scope=rest.cache_scope,
            bad_images=settings.bad_images,
            check=check,
            fetch=rest.fetch_options(),
            hub=rest.hub_options(),
            timeouts=Timeouts(
                arrival=rest.arrival_timeout,
                heartbeat=rest.heartbeat_timeout,
                stall=rest.stall_timeout,
                visibility=rest.visibility_timeout,
            ),
        )
