"""Mutated images, each made from a seed and its number; as a process it decodes a range of them.

``python -m tests.helpers.mutated SEED FIRST LAST DIRECTORY`` writes what it decodes to DIRECTORY,
so that whoever started it can name the image at which it crashed or hung.
"""

import contextlib
import faulthandler
import random
import resource
import sys
from pathlib import Path

from step37_flickr8k.dataset.selection import MAX_PIXELS
from step37_flickr8k.errors import DecoderMissing
from step37_flickr8k.images.decoding import examine
from step37_flickr8k.images.examined import Examined
from step37_flickr8k.images.opening import Undecodable
from step37_flickr8k.images.thumbnails import thumbnail
from tests.helpers.pictures import pictures

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40)
# Most are small, so that what claims to be large costs no second; some may be as large as any.
_PIXELS, _SELDOM = 4_000_000, 16
_THUMBNAILS = 8  # one in so many is shown, too
_MEMORY = 8 << 30  # bytes of address space: far more than is needed, far less than headers claim


def mutated(images: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Return the name of an image and its bytes after some changes, most of them near the start."""
    chance = random.Random(f"{seed} {number}")
    name = [*images][number % len(images)]
    content = bytearray(images[name])
    if chance.random() < 0.15:
        return name, bytes(content[: chance.randrange(len(content))])
    for _ in range(chance.choice((1, 1, 2, 4, 8, 32))):
        at = chance.randrange(max(1, min(len(content), chance.choice((16, 64, 256, 1 << 20)))))
        match chance.randrange(5):
            case 0:
                content[at : at + 1] = bytes((chance.randrange(256),))
            case 1:
                content[at : at + 1] = bytes((content[at] ^ 1 << chance.randrange(8),))
            case 2:
                length = chance.choice((1, 2, 4, 8))
                value = chance.choice(_INTERESTING) & (1 << 8 * length) - 1
                raw = value.to_bytes(length, "little")
                content[at : at + length] = chance.choice((raw, raw[::-1]))
            case 3:
                del content[at : at + chance.randrange(1, 17)]
            case _:
                source = chance.randrange(max(1, len(content)))
                content[at:at] = content[source : source + chance.randrange(1, 17)]
        content = content or bytearray(1)
    return name, bytes(content)


def check(shown: Examined) -> None:
    """Refuse what isn't one printable line of bounded length, or nothing."""
    text = shown.decode_error
    assert isinstance(text, str)
    assert text == text.strip()
    assert text.isprintable()
    assert len(text) <= 250, text
    assert not (text and shown.misnamed)


def _decode(file: Path, content: bytes, number: int) -> None:
    pixels = _PIXELS if number % _SELDOM else MAX_PIXELS
    # A file knows seeks and lengths that can't be, which memory forgives: the two may differ.
    shown = examine(file, "a.jpg", pixels)
    for each in (shown, examine(content, "a.jpg", pixels)):
        check(each)
    if number % _THUMBNAILS == 0 and not shown.decode_error:
        # What can be decoded may still not be shown: for one, its palette is broken.
        with contextlib.suppress(Undecodable, ValueError):
            thumbnail(file, "a", 2900)


def main(seed: int, first: int, last: int, directory: Path) -> None:
    """Decode the images of these numbers."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    images, file, current = pictures(), directory / "image", directory / "current"
    for number in range(first, last):
        name, content = mutated(images, seed, number)
        file.write_bytes(content)
        current.write_text(f"{number} ({name})", encoding="ascii")
        try:
            _decode(file, content, number)
        except DecoderMissing:
            continue
    current.write_text("all", encoding="ascii")


if __name__ == "__main__":
    _seed, _first, _last = map(int, sys.argv[1:4])
    main(_seed, _first, _last, Path(sys.argv[4]))
