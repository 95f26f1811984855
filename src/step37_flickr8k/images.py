"""Whether an image can be decoded: a commit may hold a broken picture, and its hash is right then, too."""

import io
from pathlib import Path

__all__ = ["why_undecodable"]


def why_undecodable(path: Path, content: bytes | bytearray | memoryview | None = None) -> str | None:
    """Give the reason why Pillow can't decode the image, None if it can; ``content`` are the file's bytes, if they are at hand.

    JPEGs are decoded at an eighth of their size: all of the file is read, a truncated one is found, at a third of the cost.
    """
    from PIL import Image  # noqa: PLC0415 - the package imports without Pillow

    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # PNG errors are SyntaxErrors
        return str(error).replace(str(path), path.name)
    return None
