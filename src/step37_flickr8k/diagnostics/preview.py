"""The samples of a warm cache: a page with a search box, and a PNG of the first images."""

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.record import Record, read_record
from step37_flickr8k.cache.rows import rows_of
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.dataset.names import ABOVE
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.download.jobs import Job
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import FolderNotUsable, InvalidSettings
from step37_flickr8k.images.sheet import contact_sheet
from step37_flickr8k.report.page import render
from step37_flickr8k.settings import WarmupSettings
from step37_flickr8k.visible import visible

__all__ = ["Preview", "Tile", "preview"]

# Rows and bytes of a thumbnail that keep the page below 25 MB. As base64 a thumbnail takes a third
# more.
_MAXIMUM_ROWS = 6000
_MAXIMUM_BYTES = 2900
# Images that a browser decodes at once
_PER_PAGE = 96
# Characters of a caption that are shown
_LONGEST_CAPTION = 1000
# Columns and images of the PNG
_SHEET = (6, 24)


@dataclass(frozen=True)
class Tile:
    """One row of the page.

    ``file`` and ``caption`` are ready to be shown. ``weight`` is the size of the file in bytes,
    ``size`` width and height in pixels, ``copy`` a thumbnail as WebP; ``decode_error`` says why
    there is none. ``counts`` is False for a line of metadata.csv that is no row of the selection.
    """

    file: str
    caption: str
    weight: int = 0
    size: tuple[int, int] = (0, 0)
    copy: bytes | None = None
    decode_error: str = ""
    counts: bool = True


@dataclass(frozen=True)
class Preview:
    """The samples of a split; ``rows`` of the selection, of which ``tiles`` shows the first."""

    record: Record
    directory: CacheDirectory
    caption_key: str
    rows: int
    tiles: Sequence[Tile]

    def page(self) -> str:
        """Return the page: one HTML file that needs nothing else."""
        rows = [
            [t.file, t.caption, t.weight, *t.size, t.decode_error, _as_text(t.copy)]
            for t in self.tiles
        ]
        data = json.dumps({"perPage": _PER_PAGE, "rows": rows}, separators=(",", ":"))
        return render(
            "preview.html",
            script="preview.js",
            preview=self,
            table=_table_name(self.record),
            # In a script element only "<" could end the JSON
            data=data.replace("<", "\\u003c"),
            shown=self.shown,
            bad=self.bad,
            lines=len(self.tiles) - self.shown - self.bad,
        )

    def sheet(self) -> bytes:
        """Return the first images as one PNG."""
        columns, most = _SHEET
        tiles = [
            (tile.copy, f"{tile.file}: {tile.decode_error}" if tile.decode_error else tile.caption)
            for tile in self.tiles[:most]
        ]
        return contact_sheet(tiles, min(columns, len(tiles)))

    @property
    def bad(self) -> int:
        """How many rows have no image to show."""
        return sum(bool(tile.decode_error) and tile.counts for tile in self.tiles)

    @property
    def shown(self) -> int:
        """How many rows have an image."""
        return sum(not tile.decode_error for tile in self.tiles)


def preview(settings: WarmupSettings, watch: Callable[[Progress], None]) -> Preview:
    """Return the samples of a warm cache; ``watch`` is called for each image that was decoded.

    Raises `FolderNotUsable` if the cache isn't warm, and `InvalidSettings` if it has no rows with
    this caption key.
    """
    directory = CacheDirectory(settings.cache_dir.absolute(), settings.split)
    record = _record_of(directory)
    coverage = record.captions.get(settings.caption_key)
    if coverage is None:
        ready = ", ".join(record.captions)
        raise InvalidSettings(
            f"caption_key {settings.caption_key!r} isn't ready in {directory.root};"
            f" run warmup with it, or choose from {ready}"
        )
    rows = min(coverage.rows, settings.sample_count or coverage.rows)
    selection = Selection(
        repo_id=record.repo_id,
        split=directory.split,
        caption_key=settings.caption_key,
        sample_count=min(rows, _MAXIMUM_ROWS),
    )
    with contextlib.closing(Workers(directory, settings.max_pixels)) as workers:
        tiles = tuple(_tiles(workers, record, selection, watch))
    return Preview(record, directory, settings.caption_key, rows, tiles)


def _record_of(directory: CacheDirectory) -> Record:
    record = read_record(directory)
    if record is None:
        raise FolderNotUsable(
            f"{directory.home} has no ready record of {directory.split};"
            " run warmup first, or choose another split"
        )
    if directory.entry(record.table) is None:
        raise FolderNotUsable(
            f"{directory.path(record.table)} is no longer there;"
            " run warmup, which downloads only what is missing"
        )
    return record


def _tiles(
    workers: Workers,
    record: Record,
    selection: Selection,
    watch: Callable[[Progress], None],
) -> Iterator[Tile]:
    """Yield a tile for each line of metadata.csv, in its order; each image is decoded once."""
    directory = workers.directory
    rows: list[Row | Tile] = []

    def leave_out(line: int, reason: str) -> None:
        rows.append(
            Tile(f"{_table_name(record)}, line {line}", "", decode_error=reason, counts=False)
        )

    for row in rows_of(directory, record, selection, leave_out):
        rows.append(row)  # noqa: PERF402 - leave_out appends between them
    names = [*dict.fromkeys(row.file_name for row in rows if isinstance(row, Row))]
    tiles: dict[str, Tile] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        decoded = pool.map(lambda name: _tile(workers, record, name), names)
        for name, tile in zip(names, decoded, strict=True):
            tiles[name] = tile
            watch(Progress(State.DECODING, files=len(tiles), of_files=len(names)))
    for each in rows:
        if isinstance(each, Tile):
            yield each
        else:
            caption = visible(_shortened(each.caption))
            yield replace(tiles[each.file_name], caption=caption)


def _tile(workers: Workers, record: Record, name: str) -> Tile:
    """Return the tile of an image, still without a caption."""
    path, shown = workers.directory.files / name, visible(name)
    try:
        weight = workers.directory.tree.status(path).st_size
    # Deleted since the warmup
    except OSError as error:
        return Tile(shown, "", decode_error=visible(error.strerror or str(error)))
    if name in record.skipped:
        return Tile(shown, "", weight, decode_error=visible(record.skipped[name]))
    (done,) = workers.do([Job(path, name, thumbnail=_MAXIMUM_BYTES)])
    # Changed since the warmup, or decoded by another Pillow, on another machine
    if problem := done.examined.decode_error or (done.error and str(done.error)):
        return Tile(shown, "", weight, decode_error=visible(problem))
    return Tile(shown, "", weight, done.size, done.copy)


def _table_name(record: Record) -> str:
    return record.table.removeprefix(ABOVE)


def _shortened(caption: str) -> str:
    if len(caption) <= _LONGEST_CAPTION:
        return caption
    return f"{caption[:_LONGEST_CAPTION]}\u2026"


def _as_text(copy: bytes | None) -> str:
    return "" if copy is None else base64.b64encode(copy).decode()
