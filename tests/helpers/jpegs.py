"""JPEGs, mutated where decoders are strict: their segments, and what stands between them.

Half of the changes leave the structure as encoders write it, so that it takes a decoder to tell.
``python -m tests.helpers.jpegs SEED FIRST LAST`` holds `shown_frame` against Pillow for a range of
them, and prints how many of them it showed to be decoded, and how many Pillow decoded.
"""

import io
import random
import sys
import warnings
from collections.abc import Callable, Iterator

from PIL import Image, ImageCms

from step37_flickr8k.images.jpeg import shown_frame

__all__ = ["jpegs", "mutated", "refused"]

_SIZES = ((1, 1), (8, 8), (17, 9), (40, 30), (120, 90), (33, 70), (256, 200))
_FROM_HERE = (0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xFE)
_MARKERS = (
    *_FROM_HERE,
    0x01,
    0xC1,
    0xC3,
    0xC8,
    0xC9,
    0xCC,
    0xD0,
    0xD7,
    0xD8,
    0xD9,
    0xDC,
    0xEE,
    0xFF,
)
_LEAST = 8  # bytes that can be changed further
_PIXELS = 4_000_000  # more cost too much: a header's size may be any


def jpegs() -> list[bytes]:
    """Return JPEGs of every make that Pillow writes: photographs of noise and of smooth areas."""
    return [*_drawn()]


def _drawn() -> Iterator[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "somebody"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    hows: tuple[dict[str, object], ...] = (
        {},
        {"subsampling": 0, "quality": 95},
        {"subsampling": 1, "quality": 30, "optimize": True},
        {"progressive": True},
        {"progressive": True, "subsampling": 0, "dpi": (72, 72)},
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1, "subsampling": 0},
        {"dpi": (300, 300), "exif": exif, "comment": "a comment"},
        {"icc_profile": profile},
        {"exif": exif},
    )
    for number, size in enumerate(_SIZES):
        smooth = Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 20)
        noise = Image.effect_noise(size, 90)
        color = Image.merge("RGB", (smooth, noise, smooth.rotate(90).resize(size)))
        for image in (color, noise if number % 2 else smooth):
            for how in hows:
                image.save(out := io.BytesIO(), "JPEG", **how)
                yield out.getvalue()


def mutated(originals: list[bytes], seed: int, number: int) -> bytes:
    """Return a JPEG after some changes."""
    chance = random.Random(f"jpeg {seed} {number}")
    content = bytearray(chance.choice(originals))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if len(content) > _LEAST:
            content = chance.choice(_CHANGES)(content, chance, originals) or content
    return bytes(content)


def _segments(content: bytes | bytearray) -> list[tuple[int, int]]:
    """Return where the segments of a JPEG begin and end; a scan ends with its data."""
    at, found = 2, []
    while at + 4 <= len(content) and content[at] == 0xFF:
        if content[at + 1] == 0xD9:
            break
        end = at + 2 + (content[at + 2] << 8 | content[at + 3])
        if content[at + 1] == 0xDA:
            while end + 1 < len(content) and not (
                content[end] == 0xFF and content[end + 1] not in {0, *range(0xD0, 0xD8)}
            ):
                end += 1
        found.append((at, min(end, len(content))))
        at = end
    return found or [(0, len(content))]


_Change = Callable[[bytearray, random.Random, list[bytes]], bytearray | None]


def _flip(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _flip_in_header(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    start, end = chance.choice(_segments(content))
    content[chance.randrange(start, min(end, start + 40))] = chance.choice(
        (0, 1, 2, 3, 4, 0x10, 0x11, 0x22, 0x3F, 0x7F, 0x80, 0xFF, chance.randrange(256))
    )


def _cut(content: bytearray, chance: random.Random, _: list[bytes]) -> bytearray:
    left = content[: chance.randrange(2, len(content) + 1)]
    return left + (b"\xff\xd9" if chance.random() < 0.7 else b"")


def _cut_out(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    at = chance.randrange(2, len(content))
    del content[at : at + chance.choice((1, 2, 16, 200, 5000))]
    content[-2:] = b"\xff\xd9"


def _splice(content: bytearray, chance: random.Random, originals: list[bytes]) -> bytearray:
    other = chance.choice(originals)
    return content[: chance.randrange(2, len(content) + 1)] + other[chance.randrange(len(other)) :]


def _splice_segments(
    content: bytearray, chance: random.Random, originals: list[bytes]
) -> bytearray:
    other = chance.choice(originals)
    start, end = chance.choice(_segments(other))
    at, until = chance.choice(_segments(content))
    return content[:at] + other[start:end] + content[chance.choice((at, until)) :]


def _swap(content: bytearray, chance: random.Random, _: list[bytes]) -> bytearray:
    (a, b), (c, d) = sorted(chance.choices(_segments(content), k=2))
    if (a, b) == (c, d):
        return content[:a] + content[b:]
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _double(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    start, end = chance.choice(_segments(content))
    content[end:end] = content[start:end]


def _mark(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    at = chance.randrange(2, len(content))
    more = chance.choice((b"", b"\0\x04ab", b"\0\x02", b"\xff", b"\0"))
    content[at : at + chance.choice((0, 2))] = bytes((0xFF, chance.choice(_MARKERS))) + more


def _name_again(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    """Let a scan name a component once more."""
    scans = [start for start, _ in _segments(content) if content[start + 1 : start + 2] == b"\xda"]
    if scans and (at := chance.choice(scans)) + 14 < len(content):
        named = bytes(content[at + 5 : at + 7])
        content[at + 4] = content[at + 4] + 1 & 0xFF
        content[at + 3] = content[at + 3] + 2 & 0xFF
        content[at + 5 : at + 5] = named


def _fill(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    start, end = chance.choice(_segments(content))
    at = chance.randrange(start, end)
    length = min(chance.choice((1, 4, 64, 2000)), end - at)
    content[at : at + length] = bytes((chance.choice((0, 0x55, 0xFE, 0xFF)),)) * length


def _noise(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    """Replace data of a scan by other data that holds no marker."""
    start, end = chance.choice(_segments(content))
    at = min(start + 14, end - 1)
    length = min(chance.choice((4, 64, 2000)), end - at)
    content[at : at + length] = chance.randbytes(length).replace(b"\xff", b"\xfe")


_CHANGES: tuple[_Change, ...] = (
    *(_flip, _flip_in_header, _flip_in_header, _cut, _cut_out, _splice),
    *(_splice_segments, _swap, _double, _mark, _fill, _noise, _name_again),
)


def refused(content: bytes) -> str:
    """Return why Pillow refuses an image, whole or at an eighth of its size; empty if it doesn't."""
    for is_small in (False, True):
        try:
            with Image.open(io.BytesIO(content)) as image:
                if is_small:
                    image.draft("L", (image.width // 8 or 1, image.height // 8 or 1))
                image.load()
        except Exception as error:  # noqa: BLE001 - any: this is around a decoder
            return f"{type(error).__name__}: {error}"
    return ""


def main(seed: int, first: int, last: int) -> None:
    """Fail for the first of these JPEGs that is shown to be decoded, and that Pillow refuses."""
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = _PIXELS // 2  # Pillow refuses those of twice as many
    originals = jpegs()
    shown = decoded = 0
    for number in range(first, last):
        content = mutated(originals, seed, number)
        frame, why = shown_frame(content), refused(content)
        decoded += not why
        if frame is not None and frame.width * frame.height <= _PIXELS:
            shown += 1
            which = f"JPEG {number} of seed {seed}"
            assert not why, f"{which}: {why}"
            with Image.open(io.BytesIO(content)) as image:
                found = image.format, *image.size
            assert found == ("JPEG", frame.width, frame.height), f"{which}: {found}"
    sys.stdout.write(f"{shown} {decoded}\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
