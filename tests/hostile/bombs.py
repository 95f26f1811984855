"""Files of few bytes that take much memory, or time, to be parsed; and some that end a decoder."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, features

__all__ = ["ABORTS", "conversions", "images", "tables"]

ABORTS = Path(__file__).with_name("inputs") / "pq-abort.parquet"
_SIDE = 9_400  # pixels: two such sides have 88 megapixels, which max_pixels allows


def images() -> dict[str, bytes]:
    """Return images by their names."""
    found = {
        **_pngs(),
        **_webps(),
        **_jpegs(),
        **_tiffs(),
        "rle.bmp": _bmp(),
        "frame.gif": _gif((65_500, 1_366)),
        "screen.gif": _gif((1, 1), screen=(65_535, 65_535)),
        "run.tga": struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, _SIDE, _SIDE, 32, 0),
        "header.ppm": b"P6\n%d %d\n255\n" % (_SIDE, _SIDE) + bytes(100),
        "long.ppm": b"P4\n1 89000000\n" + bytes(100),
        "inside.ico": _ico(),
        "run.qoi": b"qoif" + struct.pack(">IIBB", _SIDE, _SIDE, 4, 0) + b"\xfd" * 1_425_162,
        "header.sgi": struct.pack(">HBBHHHH", 474, 1, 1, 3, _SIDE, _SIDE, 4).ljust(512, b"\0"),
        "header.dds": _dds(),
    }
    if features.check("jpg_2000"):
        found |= {"tile.j2k": _jpeg_2000(1), "channels.j2k": _jpeg_2000(4)}
    if "avif" in features.modules and features.check("avif"):
        Image.new("RGB", (4_000, 4_000)).save(out := io.BytesIO(), "AVIF", speed=10)
        found["large.avif"] = out.getvalue()
    return found


# --- images, by their kinds -----------------------------------------------------------------------


def _png(width: int, height: int, bits: int, color: int, *, rows: int | None = None) -> bytes:
    """Return a PNG of zeros, or of the first ``rows`` alone."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row = bytes(1 + -(-width * bits * channels // 8))
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(row) for _ in range(height if rows is None else rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
        + chunk(b"IDAT", packed + packer.flush())
        + chunk(b"IEND", b"")
    )


def _pngs() -> dict[str, bytes]:
    return {
        "wide.png": _png(89_478_485, 1, 8, 0),
        "tall.png": _png(1, 89_478_485, 1, 0, rows=1_000_000),
        "gray.png": _png(_SIDE, _SIDE, 1, 0),
        "rgba.png": _png(_SIDE, _SIDE, 16, 6, rows=100),
    }


def _webps() -> dict[str, bytes]:
    def riff(kind: bytes, content: bytes) -> bytes:
        body = b"WEBP" + kind + struct.pack("<I", len(content)) + content
        return b"RIFF" + struct.pack("<I", len(body)) + body

    lossless = bytes.fromhex("2ffe3f5505071011fd0f4444ff03")
    lossy = bytes.fromhex("b0010a9d012a") + struct.pack("<HH", 16_383, 5_461) + bytes(64)
    canvas = b"\2\0\0\0" + (16_382).to_bytes(3, "little") + (5_460).to_bytes(3, "little")
    return {
        "lossless.webp": riff(b"VP8L", lossless),
        "lossy.webp": riff(b"VP8 ", lossy),
        "canvas.webp": riff(b"VP8X", canvas),
    }


def _jpegs() -> dict[str, bytes]:
    """Return progressive JPEGs whose frame claims many pixels: their coefficients are in memory."""
    found = {}
    for name, mode in (("progressive.jpg", "RGB"), ("cmyk.jpg", "CMYK")):
        Image.new(mode, (64, 64)).save(out := io.BytesIO(), "JPEG", progressive=True, subsampling=0)
        content = bytearray(out.getvalue())
        at = content.index(b"\xff\xc2") + 5
        content[at : at + 4] = struct.pack(">HH", _SIDE, _SIDE)
        found[name] = bytes(content)
    return found


def _tiffs() -> dict[str, bytes]:
    Image.new("L", (_SIDE, _SIDE)).save(
        strip := io.BytesIO(), "TIFF", compression="tiff_adobe_deflate", strip_size=1 << 30
    )
    return {
        "strip.tiff": strip.getvalue(),
        "offset.tiff": b"II+\0\x08\0\0\0" + (1 << 63).to_bytes(8, "little"),
        "text.tiff": b"II*\0\x08\0\0\0\1\0\0\1\2\0\2\0\0\0ab\0\0\0\0\0\0",
    }


def _bmp() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 65_000, 1_370, 1, 8, 1, 0, 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return b"BM" + struct.pack("<IHHI", start + 4, 0, 0, start) + header + bytes(1028)


def _gif(size: tuple[int, int], screen: tuple[int, int] | None = None) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *(screen or size), 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, *size, 0)
        + b"\x02\x02\x4c\x01\x00;"
    )


def _ico() -> bytes:
    inside = _png(_SIDE, _SIDE, 1, 0)
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inside), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inside


def _dds() -> bytes:
    header = [124, 0x1007, _SIDE, _SIDE, 0, 0, 0, *[0] * 11, 32, 0x41, 0, 32]
    masks = [0xFF0000, 0xFF00, 0xFF, 0xFF000000]
    return b"DDS " + struct.pack("<31I", *header, *masks, *[0] * 5) + bytes(100)


def _jpeg_2000(channels: int) -> bytes:
    """Return a JPEG 2000 of which the only tile claims all of many pixels."""
    mode = {1: "L", 4: "RGBA"}[channels]
    Image.new(mode, (64, 64)).save(out := io.BytesIO(), "JPEG2000", no_jp2=True)
    content = bytearray(out.getvalue())
    at = content.index(b"\xff\x51") + 6
    for start in (at, at + 16):
        content[start : start + 8] = struct.pack(">II", _SIDE, _SIDE)
    return bytes(content)


# --- Parquet --------------------------------------------------------------------------------------


def _written(table: pa.Table, **how: object) -> bytes:
    pq.write_table(table, out := io.BytesIO(), **how)
    return out.getvalue()


def _of_images(images: list[bytes]) -> pa.Table:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": image, "path": "a.jpg"} for image in images]
    return pa.table({"image": rows}, schema=pa.schema([("image", kind)]))


def _of_one_value(rows: int) -> pa.Table:
    """Return a table of images that are all the same 10 MB, which the file holds once."""
    values = pa.DictionaryArray.from_arrays(
        pa.array([0] * rows, pa.int32()), pa.array([bytes(10 << 20)], pa.binary())
    )
    return pa.table({"image": pa.StructArray.from_arrays([values], ["bytes"])})


def _with_footer(content: bytes, size: int) -> bytes:
    return content[:-8] + struct.pack("<I", size) + b"PAR1"


def conversions() -> dict[str, Callable[[], bytes]]:
    """Return what makes Parquet files with a column of images, by names."""
    few = _written(_of_images([b"a", b"b"]))
    return {
        "abort": ABORTS.read_bytes,
        "dictionary": lambda: _written(_of_one_value(200), compression="zstd", store_schema=False),
        "dictionary of Arrow's": lambda: _written(_of_one_value(200), compression="zstd"),
        "plain": lambda: _written(
            _of_images([bytes(10 << 20)] * 12), compression="zstd", use_dictionary=False
        ),
        "one value": lambda: _written(
            _of_images([bytes(300 << 20)]), compression="zstd", use_dictionary=False
        ),
        "row groups": lambda: _written(_of_images([b"a"] * 1_000), row_group_size=1),
        "long footer": lambda: few + bytes(1 << 20) + _with_footer(few, 1 << 20),
        "endless footer": lambda: _with_footer(few, 0xFFFFFFF0),
        "no footer": lambda: _with_footer(bytes(200_000), 150_000),
    }


def tables() -> dict[str, Callable[[], bytes]]:
    """Return what makes Parquet files that pass for a table of captions, by names."""
    names = [f"{number % 3:04}.jpg" for number in range(2_000)]
    long = "x" * 1_000_000

    def captions(texts: object, **how: object) -> bytes:
        return _written(pa.table({"file_name": names, "caption_0": texts}), **how)

    same = pa.DictionaryArray.from_arrays(pa.array([0] * len(names), pa.int32()), [long])
    few = captions(["a"] * len(names))
    return {
        "abort": ABORTS.read_bytes,
        "dictionary": lambda: captions(same),
        "plain": lambda: captions(
            pa.repeat("x" * 200_000, len(names)), compression="zstd", use_dictionary=False
        ),
        "endless footer": lambda: _with_footer(few, 0xFFFFFFF0),
        "long footer": lambda: few + bytes(60 << 20) + _with_footer(few, 60 << 20),
    }
