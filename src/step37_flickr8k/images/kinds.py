"""The kinds of image that count, by Pillow's names, and which of them this Pillow can't decode."""

from pathlib import Path

from PIL import Image, features

__all__ = ["KINDS", "found_instead", "kind_found", "kind_promised", "kind_without_decoder"]

# A file is tried as these and nothing else, by its first bytes, whatever its name. Each is decoded
# from its own bytes by a codec that is part of Pillow. What else Pillow registers is left out:
# - EPS: Ghostscript runs it as a program. IPTC: holds a file of any kind, which Pillow opens, EPS
#   too. WMF: Windows draws it. BUFR, GRIB, HDF5: the application registers a decoder. MPEG: none.
# - FPX, MIC: containers of documents, read by another library.
# - PSD, FITS: with a version that is allowed here, a PSD can write outside of its memory
#   (CVE-2026-25990) and a FITS fill the machine's (CVE-2026-40192). Pillow's own advice is not to
#   open them.
KINDS = (
    # The first five are loaded with Pillow, the others when one of them is met.
    *("JPEG", "PNG", "GIF", "BMP", "PPM"),
    *("WEBP", "TIFF", "AVIF", "JPEG2000"),
    *("BLP", "CUR", "DCX", "DDS", "DIB", "FLI", "FTEX", "GBR", "ICNS", "ICO", "IM", "IMT"),
    *("MCIDAS", "MSP", "PCD", "PCX", "PIXAR", "QOI", "SGI", "SPIDER", "SUN", "TGA", "XBM", "XPM"),
    "XVTHUMB",
)
# A phone's JPEG of several images, and a bitmap without its file header
_ALIASES = {"MPO": "JPEG", "DIB": "BMP"}
# What most names promise; Pillow knows the rest once it has loaded everything.
_USUAL = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
# Decoders that a build of Pillow may lack, as `PIL.features` calls them
_OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "TIFF": "libtiff", "WEBP": "webp"}

_HEIF = {b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"}
# What is met under the name of an image; the signs are in lower case.
_OTHERS = {
    b"<!doctype": "it is a web page",
    b"<html": "it is a web page",
    b"<svg": "it is SVG, which Pillow doesn't decode",
    b"version http": "it is a pointer of Git LFS, not the image",
    b"\xff\n": "it is JPEG XL, which Pillow doesn't decode",
    b"\0\0\0\x0cjxl ": "it is JPEG XL, which Pillow doesn't decode",
}


def kind_promised(name: str) -> str | None:
    """Return the kind that a file's name promises; None for a name that promises none."""
    suffix = Path(name).suffix.lower()
    # Some versions register a kind for no suffix.
    if not suffix:
        return None
    kind = _USUAL.get(suffix) or Image.registered_extensions().get(suffix)
    return _ALIASES.get(kind, kind) if kind else None


def kind_found(kind: str | None) -> str:
    """Return the kind of an opened image, by the name that `kind_promised` has for it."""
    name = (kind or "").upper()
    return _ALIASES.get(name, name)


def kind_without_decoder(start: bytes) -> str | None:
    """Return the kind of an image, by its first 12 bytes, if this Pillow has no decoder for it."""
    kind = _by_signature(start)
    feature = _OPTIONAL.get(kind or "")
    if feature is None:
        return None
    if feature in {*features.modules, *features.codecs}:
        return None if features.check(feature) else kind
    return kind


def found_instead(start: bytes) -> str:
    """Return what a file that is no image that counts may be, by how it begins; else nothing."""
    if not start:
        return "it is empty"
    if start[4:12] in _HEIF:
        return "it is HEIC, which Pillow doesn't decode"
    beginning = start.lstrip().lower()
    return next((what for sign, what in _OTHERS.items() if beginning.startswith(sign)), "")


def _by_signature(start: bytes) -> str | None:
    if start[4:12] in {b"ftypavif", b"ftypavis"}:
        return "AVIF"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"jP  " or start[:4] == b"\xff\x4f\xff\x51":
        return "JPEG2000"
    return "TIFF" if start[:4] in {b"II*\0", b"MM\0*"} else None
