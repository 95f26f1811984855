"""A JPEG's structure: what shows that Pillow decodes it, and what is left to Pillow."""

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from step37_flickr8k.images.decoding import examine
from step37_flickr8k.images.examined import FINE
from step37_flickr8k.images.jpeg import shown_frame
from tests.helpers.jpegs import jpegs, refused

MANY = 100_000_000


def drawn(mode: str = "RGB", **how: object) -> bytes:
    image = Image.effect_mandelbrot((50, 40), (-2, -1.5, 1, 1.5), 20).convert(mode)
    image.save(out := io.BytesIO(), "JPEG", **how)
    return out.getvalue()


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


def test_what_encoders_write_is_shown() -> None:
    """Baseline and progressive, grey and color, restarts, profiles, comments."""
    every = jpegs()
    shown = [one for one in every if shown_frame(one)]
    assert not any(map(refused, every))
    # Left are those whose Exif Pillow reads for a resolution.
    assert {b"Exif" in one for one in every if one not in shown} == {True}
    assert len(shown) > 0.8 * len(every)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, pa.py_buffer])
def test_the_header_is_returned(kind: Callable[[bytes], Any]) -> None:
    """From any kind of buffer: a worker has views of its pipe and of Arrow's memory."""
    frame = shown_frame(kind(drawn(progressive=True)))
    assert frame is not None
    assert (frame.width, frame.height, frame.is_progressive) == (50, 40, True)
    assert [layer[1:3] for layer in frame.layers] == [(2, 2), (1, 1), (1, 1)]


def without(content: bytes, marker: int) -> bytes:
    """Return a JPEG without its segments of one kind."""
    at = 2
    while content[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if content[at + 1] == marker:
            content = content[:at] + content[end:]
        else:
            at = end
    return content


def with_marks(announced: bytes, before: bytes = b"") -> bytes:
    """Return a JPEG that announces restarts, or has more before its tables."""
    return replaced(drawn(), b"\xff\xdb", announced + before + b"\xff\xdb")


GREY = drawn("L")
HUGE = replaced(GREY, b"\xff\xc0\0\x0b\x08\0\x28\0\x32", b"\xff\xc0\0\x0b\x08\xff\xdc\xff\xdc")
BROKEN = {
    "a component that a scan names twice": replaced(
        GREY, b"\xff\xda\0\x08\1\1\0\0\x3f", b"\xff\xda\0\x0a\2\1\0\1\0\0\x3f"
    ),
    "nothing": b"",
    "two bytes": b"\xff\xd8",
    "cut": drawn()[:-200],
    "no end": drawn()[:-2],
    "no quantization tables": without(drawn(), 0xDB),
    "no frame": without(drawn(), 0xC0),
    "a table of no slot": replaced(drawn(), b"\xff\xdb\0\x43\0", b"\xff\xdb\0\x43\x07"),
    "a code of all ones": replaced(drawn(), b"\xff\xc4\0\x1f\0\0", b"\xff\xc4\0\x1f\0\2"),
    "a component of another id": replaced(drawn(), b"\3\x11\1\xff", b"\7\x11\1\xff"),
    "a segment too long": replaced(drawn(), b"\xff\xdb\0\x43", b"\xff\xdb\0\x44"),
    "no height": replaced(drawn(), b"\xff\xc0\0\x11\x08\0\x28", b"\xff\xc0\0\x11\x08\0\0"),
}
UNUSUAL = {
    "more restarts than bytes": replaced(HUGE, b"\xff\xda", b"\xff\xdd\0\4\0\1\xff\xda"),
    "comments without end": with_marks(b"\xff\xfe\0\2" * 200),
    "comments of a megabyte": with_marks((b"\xff\xfe\xff\xff" + bytes(65533)) * 17),
    "no codes, as in a video": without(drawn(), 0xC4),
    "more behind its end": drawn() + b"\0",
    "four colors": drawn("CMYK"),
    "arithmetic coding": replaced(drawn(), b"\xff\xc0", b"\xff\xc9"),
    "a part of unknown use": replaced(drawn(), b"\xff\xdb", b"\xff\xe5\0\x04ab\xff\xdb"),
    "Adobe's colors": replaced(
        drawn(), b"\xff\xdb", b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1\xff\xdb"
    ),
    "a restart that wasn't announced": drawn()[:-2] + b"\xff\xd0\xff\xd9",
}


@pytest.mark.parametrize("content", [*BROKEN.values(), *UNUSUAL.values()], ids=[*BROKEN, *UNUSUAL])
def test_the_rest_is_left_to_pillow(content: bytes) -> None:
    """Neither what is broken nor what is only unusual is shown to be decoded."""
    assert shown_frame(content) is None


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_a_decode_error(content: bytes) -> None:
    """Pillow says so, as for every other kind of image."""
    assert refused(content)
    assert examine(content, "a.jpg", MANY).decode_error


@pytest.mark.parametrize(
    ("name", "pixels", "memory"), [("a.png", MANY, None), ("a.jpg", 1999, None)]
)
def test_what_is_shown_is_held_against_the_limits(
    name: str, pixels: int, memory: int | None
) -> None:
    """A name of another kind, and too many pixels, are found as if it were decoded."""
    assert examine(drawn(), "a.jpg", 2000, 10_000) == FINE
    assert examine(drawn(), name, pixels, memory) != FINE
