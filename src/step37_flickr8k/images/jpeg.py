"""Whether a JPEG's structure alone shows that Pillow decodes it, at a small part of the cost.

libjpeg gives up at what it can't use in the segments before, between and behind the scans. Inside a
scan nothing stops it: wrong bits make other pixels, and a warning that Pillow doesn't hear. So what
is to be shown is that all segments are there, whole, and such as encoders write them, up to
the end of the file. Whatever is in the least unusual isn't shown here, and is decoded.

``tests/hostile/test_jpegs.py`` holds this against Pillow.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

__all__ = ["LONGEST_SIDE", "Frame", "Layer", "shown_frame"]

LONGEST_SIDE = 65_500  # pixels: libjpeg's limit

# A component: its id, how many of its blocks lie across and down in a unit, its table.
Layer = tuple[int, int, int, int]

# What ends a scan, without and with restarts in it, and these
_END = re.compile(rb"\xff[^\x00]")
_END_BEHIND_RESTARTS = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_RESTARTS = [bytes([number]) for number in range(0xD0, 0xD8)]
_TABLES = 4  # slots of each kind
_COLORS = (1, 2, 3)  # the components Y, Cb and Cr, as JFIF numbers them
_MOST_SCANS = 20  # encoders write ten or so; each one takes as long as the whole image
# Pillow keeps every segment before the first scan, and appends them to each other
_MOST_SEGMENTS, _MOST_BYTES = 100, 1 << 20
_MOST_BITS = 13  # by which a progressive scan may be less exact
_LAST = 63  # coefficients of a block, from 0
_JFIF_LENGTH, _RESOLUTION = 14, 7
_START, _ICC_START = b"\xff\xd8", b"ICC_PROFILE\0"


class _Marker(IntEnum):
    """The second byte of a segment's marker."""

    BASELINE = 0xC0
    PROGRESSIVE = 0xC2
    CODES = 0xC4
    END = 0xD9
    SCAN = 0xDA
    QUANTIZATION = 0xDB
    RESTARTS = 0xDD
    JFIF = 0xE0
    EXIF = 0xE1
    ICC = 0xE2
    COMMENT = 0xFE


class _NotShown(Exception):
    """Raised for what has to be decoded to be known."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The header of a JPEG: its size in pixels, its components, whether it comes in scans."""

    width: int
    height: int
    layers: Sequence[Layer]
    is_progressive: bool

    @property
    def blocks(self) -> int:
        """The number of units that a restart interval counts in a scan of all components."""
        across, down = self.layers[0][1:3] if len(self.layers) > 1 else (1, 1)
        return -(-self.width // (8 * across)) * -(-self.height // (8 * down))


def shown_frame(content: bytes | bytearray | memoryview) -> Frame | None:
    """Return the header of a JPEG that Pillow decodes, None for what isn't shown to be one."""
    try:
        # Arrow's bytes are signed.
        return _Walk().through(memoryview(content).cast("B"))
    except (_NotShown, IndexError):
        return None


@dataclass(slots=True)
class _Walk:
    """One walk through all segments: what was met so far."""

    frame: Frame | None = None
    quantization: set[int] = field(default_factory=set)
    codes: set[int] = field(default_factory=set)  # those of AC have 16 more
    interval: int = 0  # of restarts
    scans: int = 0
    segments: int = 0
    length: int = 0  # of all segments
    has_resolution: bool = False

    def through(self, content: memoryview) -> Frame:
        """Return the header, if everything up to the end of the file is as it should be."""
        _require(content[:2] == _START)
        at = 2
        while (marker := _marker(content, at)) != _Marker.END:
            length = content[at + 2] << 8 | content[at + 3]
            segment = bytes(content[at + 4 : at + 2 + length])
            _require(length == len(segment) + 2)
            self.segments += 1
            self.length += length
            _require(self.segments <= _MOST_SEGMENTS and self.length <= _MOST_BYTES)
            at += 2 + length
            self._take(marker, segment)
            if marker == _Marker.SCAN:
                self._take_scan(segment)
                at = self._end_of_scan(content, at)
        _require(at + 2 == len(content) and self.scans > 0)
        return self._header()

    def _take(self, marker: int, segment: bytes) -> None:
        match marker:
            case _Marker.QUANTIZATION:
                self._take_quantization(segment)
            case _Marker.CODES:
                self._take_codes(segment)
            case _Marker.BASELINE | _Marker.PROGRESSIVE:
                self._take_frame(segment, is_progressive=marker == _Marker.PROGRESSIVE)
            case _Marker.RESTARTS:
                _require(len(segment) == 2)
                self.interval = segment[0] << 8 | segment[1]
            case _Marker.JFIF:
                _require(segment[:5] == b"JFIF\0" and len(segment) >= _JFIF_LENGTH)
                self.has_resolution |= segment[_RESOLUTION] in {1, 2}
            case _Marker.EXIF:
                # Without a resolution, Pillow reads one from here.
                _require(segment[:6] == b"Exif\0\0" and self.has_resolution)
            case _Marker.ICC:
                _require(segment.startswith(_ICC_START) and len(segment) > len(_ICC_START) + 2)
            case _Marker.COMMENT | _Marker.SCAN:
                pass
            case _:
                raise _NotShown

    def _take_quantization(self, segment: bytes) -> None:
        _require(len(segment) > 0)
        for at in range(0, len(segment), 65):
            _require(segment[at] < _TABLES and at + 65 <= len(segment))
            self.quantization.add(segment[at])

    def _take_codes(self, segment: bytes) -> None:
        """Take Huffman tables: the numbers of codes of 1 to 16 bits, then what they stand for."""
        at = 0
        _require(len(segment) > 0)
        while at < len(segment):
            table, numbers = segment[at], segment[at + 1 : at + 17]
            values = segment[at + 17 : at + 17 + sum(numbers)]
            _require(table & 0xEF < _TABLES and len(numbers) == 16)
            _require(0 < len(values) == sum(numbers) <= 256)
            # DC's are numbers of bits.
            _require(table > _TABLES or max(values, default=0) < 16)
            code = 0
            for bits, number in enumerate(numbers, 1):
                code += number
                # No code is all ones.
                _require(number == 0 or code < 1 << bits)
                code <<= 1
            self.codes.add(table)
            at += 17 + len(values)

    def _take_frame(self, segment: bytes, *, is_progressive: bool) -> None:
        _require(self.frame is None and segment[0] == 8)
        height, width = segment[1] << 8 | segment[2], segment[3] << 8 | segment[4]
        count = segment[5]
        _require(len(segment) == 6 + 3 * count)
        _require(0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE)
        layers = [
            (segment[at], segment[at + 1] >> 4, segment[at + 1] & 15, segment[at + 2])
            for at in range(6, len(segment), 3)
        ]
        # Colors may have half of the pixels; no other image has components of several sizes.
        _require({layers[0][1], layers[0][2]} <= {1, 2})
        if count > 1:
            _require(tuple(layer[0] for layer in layers) == _COLORS)
            _require(all(layer[1:3] == (1, 1) for layer in layers[1:]))
        self.frame = Frame(width, height, layers, is_progressive)

    def _end_of_scan(self, content: memoryview, at: int) -> int:
        """Return where the data of a scan ends that begins at ``at``."""
        end = (_END_BEHIND_RESTARTS if self.interval else _END).search(content, at)
        if end is None:
            raise _NotShown
        if self.interval:
            number = (self._header().blocks - 1) // self.interval
            found = _RESTART.findall(content, at, end.start())
            # How many a header announces is anybody's guess: no list is made of that
            _require(len(found) == number)
            _require(all(mark == _RESTARTS[turn % 8] for turn, mark in enumerate(found)))
        return end.start()

    def _take_scan(self, segment: bytes) -> None:
        frame = self._header()
        count = segment[0]
        _require(len(segment) == 4 + 2 * count)
        parts = {segment[at]: segment[at + 1] for at in range(1, 1 + 2 * count, 2)}
        first, last, high, low = *segment[-3:-1], segment[-1] >> 4, segment[-1] & 15
        every = [layer[0] for layer in frame.layers]
        _require(all(layer[3] in self.quantization for layer in frame.layers))
        # libjpeg refuses a component that is named twice.
        _require(len(parts) == count)
        self.scans += 1
        if frame.is_progressive:
            # The number of its restarts depends on the scan.
            _require(self.scans <= _MOST_SCANS and self.interval == 0)
            self._check_progressive(parts, every, (first, last, high, low))
        else:
            _require(self.scans == 1 and [*parts] == every)
            _require((first, last, high, low) == (0, _LAST, 0, 0))
            _require(all(self._has_codes(tables, dc=True, ac=True) for tables in parts.values()))

    def _check_progressive(
        self, parts: dict[int, int], every: list[int], extent: tuple[int, int, int, int]
    ) -> None:
        """Check one scan of several; the first one holds the DC of all components."""
        first, last, high, low = extent
        _require(low <= _MOST_BITS and (high == 0 or low == high - 1))
        if first == 0:
            _require(last == 0 and [*parts] == every and (high > 0) == (self.scans > 1))
            needs_codes = high == 0
            _require(all(self._has_codes(t, dc=needs_codes, ac=False) for t in parts.values()))
        else:
            _require(first <= last <= _LAST and self.scans > 1)
            _require(len(parts) == 1 and {*parts} <= {*every})
            _require(all(self._has_codes(t, dc=False, ac=True) for t in parts.values()))

    def _has_codes(self, tables: int, *, dc: bool, ac: bool) -> bool:
        has_dc, has_ac = tables >> 4 in self.codes, (tables & 15) + 16 in self.codes
        return max(tables >> 4, tables & 15) < _TABLES and has_dc >= dc and has_ac >= ac

    def _header(self) -> Frame:
        if self.frame is None:
            raise _NotShown
        return self.frame


def _marker(content: memoryview, at: int) -> int:
    _require(content[at] == 0xFF)
    return content[at + 1]


def _require(holds: bool) -> None:
    if not holds:
        raise _NotShown
