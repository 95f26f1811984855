"""The drawn dataset: its captions are true of its pictures, and the same arguments draw the same bytes."""

import csv
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "demo"))

from draw import COLOURS, draw_dataset, scenes


def colour_at(image: Image.Image, x: float, y: float) -> str:
    pixel = image.getpixel((int(x * image.width), int(y * image.height)))
    assert isinstance(pixel, tuple)
    return min(
        COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(pixel, COLOURS[name], strict=True))
    )


def test_captions_are_true_of_the_pictures(tmp_path: Path) -> None:
    """Where a caption puts a colour, the picture has it."""
    draw_dataset(tmp_path, count=20)
    with (tmp_path / "train" / "metadata.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 20
    for row in rows:
        words = row["caption_0"].split()
        first, second = words[1], words[-2]
        places = [(0.5, 0.25), (0.5, 0.75)] if "above" in words else [(0.25, 0.5), (0.75, 0.5)]
        with Image.open(tmp_path / "train" / row["file_name"]) as image:
            assert [colour_at(image, *place) for place in places] == [first, second]
        opposite = {"above": "below", "left": "right"}["above" if "above" in words else "left"]
        assert row["caption_1"].startswith(f"a {second}")
        assert opposite in row["caption_1"]
        assert all(f"{first}" in row[f"caption_{number}"] for number in range(5))


def test_the_same_arguments_draw_the_same_bytes(tmp_path: Path) -> None:
    """Two drawings are equal, another seed's differs."""
    for name in "ab":
        draw_dataset(tmp_path / name, count=5)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 6
    assert all(
        (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        for file in files
    )
    assert scenes(5, seed=0) != scenes(5, seed=1)
