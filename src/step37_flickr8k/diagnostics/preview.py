"""The samples of a warm cache to look at: a page with a search box, and a picture for terminals and documents."""

import base64
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.record import Record, read_record
from step37_flickr8k.cache.rows import rows_of
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.dataset.metadata import METADATA
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import FolderNotUsable, InvalidSettings
from step37_flickr8k.images import contact_sheet, thumbnail
from step37_flickr8k.report.page import render
from step37_flickr8k.report.visible import visible
from step37_flickr8k.settings import WarmupSettings

__all__ = ["Preview", "Tile", "preview"]

_MOST_ROWS = 6000  # on one page, which stays below 25 MB then
_MOST_BYTES = 2900  # of a small copy; as text in the page it takes a third more
_PER_PAGE = 96  # pictures that a browser decodes at once
_LONGEST = 1000  # characters of a caption that are shown
_SHEET = (6, 24)  # columns and pictures of the contact sheet


@dataclass(frozen=True)
class Tile:
    """One row: its image's name, caption, bytes, width and height in pixels, a small copy; or why there is none."""

    file: str
    caption: str
    weight: int = 0
    size: tuple[int, int] = (0, 0)
    copy: bytes | None = None
    decode_error: str = ""
    counts: bool = True  # as a row: not a line of metadata.csv without a name or a caption


@dataclass(frozen=True)
class Preview:
    """What is shown: the record that the rows are of, where they lie, how many there are, and the tiles."""

    record: Record
    directory: CacheDirectory
    caption_key: str
    rows: int
    tiles: Sequence[Tile]

    def page(self) -> str:
        """Give the page: one file that needs nothing else."""
        rows = [
            [t.file, t.caption, t.weight, *t.size, t.decode_error, _as_text(t.copy)]
            for t in self.tiles
        ]
        # within a script element only "<" could end it; the rest is JSON's own escaping
        told = json.dumps({"perPage": _PER_PAGE, "rows": rows}, separators=(",", ":")).replace(
            "<", "\\u003c"
        )
        counts = {
            "shown": self.shown,
            "bad": self.bad,
            "lines": len(self.tiles) - self.shown - self.bad,
        }
        return render("preview.html", script="preview.js", preview=self, told=told, **counts)

    def sheet(self) -> bytes:
        """Give the first pictures as PNG."""
        columns, most = _SHEET
        tiles = [
            (tile.copy, f"{tile.file}: {tile.decode_error}" if tile.decode_error else tile.caption)
            for tile in self.tiles[:most]
        ]
        return contact_sheet(tiles, min(columns, len(tiles)))

    @property
    def bad(self) -> int:
        """How many rows have no picture to show."""
        return sum(bool(tile.decode_error) and tile.counts for tile in self.tiles)

    @property
    def shown(self) -> int:
        """How many rows have one."""
        return sum(not tile.decode_error for tile in self.tiles)


def preview(settings: WarmupSettings, watch: Callable[[Progress], None]) -> Preview:
    """Look at a warm cache; raises `FolderNotUsable` where it isn't one, `InvalidSettings` for captions that aren't ready."""
    directory = CacheDirectory(settings.cache_dir.absolute(), settings.split)
    record = read_record(directory)
    if record is None:
        raise FolderNotUsable(
            f"{directory.home} has no ready record of {directory.split}: run warmup first, or choose another split"
        )
    if METADATA not in directory.names():
        raise FolderNotUsable(
            f"{directory.files / METADATA} is no longer there: run warmup, which fetches just what is missing"
        )
    coverage = record.captions.get(settings.caption_key)
    if coverage is None:
        ready = ", ".join(record.captions)
        told = f"caption_key {settings.caption_key!r} isn't ready in {directory.root}"
        raise InvalidSettings(f"{told}: run warmup with it, or choose from {ready}")
    rows = min(coverage.rows, settings.sample_count or coverage.rows)
    selection = Selection(
        repo_id=record.repo_id,
        split=directory.split,
        caption_key=settings.caption_key,
        sample_count=min(rows, _MOST_ROWS),
    )
    return Preview(
        record,
        directory,
        settings.caption_key,
        rows,
        [*_tiles(directory, record, selection, watch)],
    )


def _tiles(
    directory: CacheDirectory,
    record: Record,
    selection: Selection,
    watch: Callable[[Progress], None],
) -> Iterator[Tile]:
    """Give the rows in file order, those that don't count among them; an image that several rows name is decoded once."""
    rows: list[Row | Tile] = []

    def leave_out(line: int, why: str) -> None:
        rows.append(Tile(f"{METADATA}, line {line}", "", decode_error=why, counts=False))

    for row in rows_of(directory, selection, leave_out):
        rows.append(row)  # noqa: PERF402 - leave_out appends between them
    names = [*dict.fromkeys(row.file_name for row in rows if isinstance(row, Row))]
    pictures: dict[str, Tile] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, picture in zip(
            names, pool.map(lambda name: _picture(directory, record, name), names), strict=True
        ):
            pictures[name] = picture
            watch(Progress(State.DECODING, files=len(pictures), of_files=len(names)))
    for each in rows:
        yield (
            each
            if isinstance(each, Tile)
            else replace(pictures[each.file_name], caption=visible(_shortened(each.caption)))
        )


def _picture(directory: CacheDirectory, record: Record, name: str) -> Tile:
    path, shown = directory.files / name, visible(name)
    try:
        weight = path.stat().st_size
        if name in record.skipped:
            return Tile(shown, "", weight, decode_error=visible(record.skipped[name]))
        copy, size = thumbnail(path, _MOST_BYTES)
    except (OSError, ValueError, SyntaxError) as error:  # gone since, or changed
        return Tile(
            shown,
            "",
            decode_error=visible(
                getattr(error, "strerror", None) or str(error).replace(str(path), name)
            ),
        )
    return Tile(shown, "", weight, size, copy)


def _shortened(caption: str) -> str:
    return caption if len(caption) <= _LONGEST else f"{caption[:_LONGEST]}\u2026"


def _as_text(copy: bytes | None) -> str:
    return "" if copy is None else base64.b64encode(copy).decode()
