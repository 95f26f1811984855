"""Small images of every kind that counts, as bytes: drawn by Pillow, or put together by hand."""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator

from PIL import Image, PngImagePlugin, features

_SIZE = (24, 18)
_SIDES = struct.pack("<HH", *_SIZE)
_PIXELS = bytes(range(216)) * 2  # one byte for each


def pictures() -> dict[str, bytes]:
    """Return images by name; a name begins with the kind, as Pillow calls it, and a dot."""
    with warnings.catch_warnings():
        # Some kinds will be gone from a later Pillow.
        warnings.simplefilter("ignore", DeprecationWarning)
        return {**dict(_drawn()), **_put_together()}


def _drawn() -> Iterator[tuple[str, bytes]]:
    for name, (image, kind, how) in _drawings().items():
        # Copies: saving leaves settings of the encoder in an image.
        second = [image.transpose(Image.Transpose.ROTATE_180)] if "save_all" in how else []
        # An older Pillow doesn't write all that it reads.
        with contextlib.suppress(OSError):
            image.copy().save(out := io.BytesIO(), kind, append_images=second, **how)
            yield name, out.getvalue()


def _drawings() -> dict[str, tuple[Image.Image, str, dict[str, object]]]:
    """Return what to draw and how to save it, in every way of storing pixels that a kind has."""
    rgb = Image.effect_mandelbrot(_SIZE, (-2, -1.5, 1, 1.5), 20).convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "somebody", 72.5
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 50, zip=True)
    text.add_itxt("c", "d" * 50, zip=True)
    several: dict[str, object] = {"save_all": True}
    images = {mode: rgb.convert(mode) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "F")}
    images["I;16"] = Image.new("I;16", _SIZE, 777)
    plain: dict[str, str] = {
        "BMP": "1 L P RGB RGBA",
        "DIB": "RGB",
        "GIF": "L P",
        "IM": "L P RGB",
        "JPEG": "L RGB CMYK",
        "MSP": "1",
        "PCX": "1 L P RGB",
        "PNG": "1 L P RGB RGBA I;16",
        "PPM": "1 L RGB F",
        "SGI": "L RGB RGBA",
        "SPIDER": "F",
        "TGA": "L P RGB RGBA",
        "TIFF": "1 L P RGB RGBA CMYK F I;16",
        "XBM": "1",
        "DDS": "L RGB RGBA",
        "BLP": "P",
    }
    drawings: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        f"{kind}.{mode}": (images[mode], kind, {})
        for kind, modes in plain.items()
        for mode in modes.split()
    }
    drawings |= {
        "JPEG.exif": (rgb, "JPEG", {"exif": exif, "dpi": (72, 72)}),
        "JPEG.progressive": (rgb, "JPEG", {"progressive": True}),
        "JPEG.mpo": (rgb, "MPO", several),
        "PNG.text": (rgb, "PNG", {"pnginfo": text, "exif": exif}),
        "PNG.transparent": (images["P"], "PNG", {"transparency": bytes(range(16))}),
        "PNG.animated": (rgb, "PNG", several),
        "GIF.animated": (images["P"], "GIF", several),
        "TIFF.big": (rgb, "TIFF", {"big_tiff": True}),
        "TIFF.exif": (rgb, "TIFF", {"exif": exif}),
        "TIFF.pages": (rgb, "TIFF", several),
        "TGA.rle": (rgb, "TGA", {"compression": "tga_rle"}),
        "ICO.png": (images["RGBA"], "ICO", {"sizes": [(16, 16)]}),
        "ICO.bmp": (images["RGBA"], "ICO", {"sizes": [(16, 16)], "bitmap_format": "bmp"}),
    }
    if features.check("libtiff"):
        packed = {"RGB": "packbits tiff_lzw tiff_adobe_deflate jpeg", "1": "group3 group4"}
        drawings |= {
            f"TIFF.{compression}": (images[mode], "TIFF", {"compression": compression})
            for mode, compressions in packed.items()
            for compression in compressions.split()
        }
    return drawings | _where_there_is_a_codec(rgb, images["L"], several)


def _where_there_is_a_codec(
    rgb: Image.Image, gray: Image.Image, several: dict[str, object]
) -> dict[str, tuple[Image.Image, str, dict[str, object]]]:
    drawings: dict[str, tuple[Image.Image, str, dict[str, object]]] = {}
    if features.check("webp"):
        drawings["WEBP.RGB"] = (rgb, "WEBP", {})
        drawings["WEBP.lossless"] = (rgb, "WEBP", {"lossless": True})
        drawings["WEBP.animated"] = (rgb, "WEBP", several)
    if features.check("jpg_2000"):
        drawings["JPEG2000.RGB"] = (rgb, "JPEG2000", {})
        drawings["JPEG2000.stream"] = (rgb, "JPEG2000", {"no_jp2": True})
        drawings["JPEG2000.tiles"] = (gray, "JPEG2000", {"tile_size": (8, 8)})
        drawings["ICNS.RGBA"] = (Image.new("RGBA", (16, 16)), "ICNS", {})
    # Pillow has it since 11.3.
    if "avif" in features.modules and features.check("avif"):
        drawings["AVIF.RGB"] = (rgb, "AVIF", {"speed": 10})
        drawings["AVIF.animated"] = (rgb, "AVIF", several)
    return drawings


def _put_together() -> dict[str, bytes]:
    """Return images of the kinds that Pillow only reads, and text that it doesn't write."""
    width, height = _SIZE
    Image.new("RGBA", (16, 16)).save(
        icon := io.BytesIO(), "ICO", sizes=[(16, 16)], bitmap_format="bmp"
    )
    Image.new("RGB", _SIZE).save(pcx := io.BytesIO(), "PCX")
    area = [0] * 64
    area[7], area[8], area[9], area[10], area[13], area[33] = 4, height, width, 1, 1, 256
    area[0], area[1] = 0, 4
    flic = struct.pack("<IHH4sHHI", 0, 0xAF12, 1, _SIDES, 8, 3, 50)
    copied = struct.pack("<IH", 6 + len(_PIXELS), 16) + _PIXELS
    frame = struct.pack("<IHH8x", 16 + len(copied), 0xF1FA, 1) + copied
    rgb = _PIXELS * 3
    return {
        "CUR.RGBA": b"\0\0\2\0" + icon.getvalue()[4:],
        "DCX.RGB": struct.pack("<III", 987654321, 12, 0) + pcx.getvalue(),
        "FLI.P": flic.ljust(128, b"\0") + frame,
        "FTEX.RGB": b"FTEX"
        + struct.pack("<iiiiiiii", 1, width, height, 1, 1, 1, 32, len(rgb))
        + rgb,
        "GBR.L": struct.pack(">IIIII", 24, 1, width, height, 1) + b"abc\0" + _PIXELS,
        "IMT.L": b"* made by hand\nwidth 24\nheight 18\npixel n8\n\x0c" + _PIXELS,
        "MCIDAS.L": struct.pack("!64i", *area) + _PIXELS,
        "PIXAR.RGB": b"\x80\xe8\0\0".ljust(416, b"\0")
        + struct.pack("<HHHHHH", height, width, 0, 0, 14, 2).ljust(608, b"\0")
        + rgb,
        "PPM.text": b"P3\n4 2\n255\n" + b" ".join(b"%d" % value for value in range(24)) + b"\n",
        "PPM.bits": b"P1\n4 2\n0 1 0 1\n1 0 1 0\n",
        "QOI.RGB": b"qoif"
        + struct.pack(">II", width, height)
        + b"\3\0"
        + b"\xfd" * 7
        + bytes(7)
        + b"\1",
        "SUN.RGB": struct.pack(">8I", 0x59A66A95, width, height, 24, len(rgb), 1, 0, 0) + rgb,
        "XPM.P": b'/* XPM */\nstatic char *a[] = {\n"4 2 2 1",\n"a c #102030",\n"b c #ffffff",\n'
        b'"abab",\n"baba"\n};\n',
        "XVTHUMB.P": b"P7 332\n#made by hand\n24 18 255\n" + _PIXELS,
    }
