"""What a call asks for, and what a row of the metadata table says."""

from dataclasses import dataclass

__all__ = ["MAX_PIXELS", "Row", "Selection"]

# A quarter of a gigabyte of RGB: above it Pillow, which a training may use, warns.
MAX_PIXELS = 89_478_485


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a call asks for: the first ``sample_count`` rows of a split that count.

    ``sample_count`` None is every row that counts; ``revision`` None accepts any commit. Images of
    more than ``max_pixels`` are left out.
    """

    repo_id: str
    split: str
    caption_key: str
    sample_count: int | None
    revision: str | None = None
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, slots=True)
class Row:
    """A row that counts: both cells are non-empty after stripping."""

    file_name: str
    caption: str
