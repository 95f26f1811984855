"""Images: whether they can be decoded, and of which kind they are.

A commit may hold images that are broken although their hash is right. The only user of Pillow.

- `decoding`: decode an image once (`examine`).
- `examined`: what that has shown (`Examined`).
- `kinds`: the kinds that count, and why others don't.
- `opening`: open an image; whatever its decoder raises becomes one error (`with_image`).
- `weight`: the memory that an image takes, by its header.
- `thumbnails`: small copies; `sheet`: many of them in one image.
"""
