"""The settings that a download takes, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["FetchOptions", "HubOptions"]


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How files are fetched; timeouts in seconds."""

    concurrency: int = 64
    attempts: int = 8
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    mode: Literal["auto", "files", "parquet"] = "auto"


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """How the Hub is reached; an ``endpoint`` of None is the public Hub."""

    endpoint: str | None = None
    # Secrets: kept out of every text that names this object.
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    offline: bool = False
