"""What environment and settings file say of the selection, which a library call doesn't take."""

import contextlib
from collections.abc import Iterator, Mapping

from step37_flickr8k.errors import InvalidSettings
from step37_flickr8k.settings.model import WarmupSettings
from step37_flickr8k.settings.sources import SELECTION, load_settings

__all__ = ["ignored_by"]


def ignored_by(call: WarmupSettings, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield each setting of the selection that is set elsewhere, and that the call says otherwise.

    For example ``STEP37_CACHE_DIR is /a, the call's cache_dir /b``.
    """
    # What is wrong elsewhere is no business of a call that doesn't take it
    with contextlib.suppress(InvalidSettings):
        loaded = load_settings({}, environ=environ)
        for name in sorted(SELECTION):
            here, there = getattr(call, name), getattr(loaded.settings, name)
            if name == "cache_dir":
                here, there = here.resolve(), there.resolve()
            if loaded.origins[name] != "default" and here != there:
                origin = loaded.origins[name]
                by = origin if origin.startswith("STEP37_") else f"{name} in {origin}"
                yield f"{by} is {_shown(there)}, the call's {name} {_shown(here)}"


def _shown(value: object) -> str:
    return "all" if value is None else str(value)
