"""Draw a small image-caption dataset whose captions are true of the pictures: two coloured shapes and how they lie.

``python demo/draw.py FOLDER --count 64`` writes FOLDER/train/metadata.csv and the JPEGs beside it,
in the layout of the dataset repository; the same arguments always draw the same bytes.
"""

import argparse
import csv
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 70),
    "blue": (50, 80, 220),
    "yellow": (240, 200, 40),
    "purple": (140, 60, 170),
}
SHAPES = ("circle", "square", "triangle")
BACKGROUND = (245, 245, 240)


@dataclass(frozen=True)
class Scene:
    """Two shapes, the first above or left of the second; each is (colour, shape)."""

    first: tuple[str, str]
    second: tuple[str, str]
    vertical: bool

    def captions(self) -> list[str]:
        """Give five captions, each true of the picture."""
        a, b = (f"a {colour} {shape}" for colour, shape in (self.first, self.second))
        before, after = ("above", "below") if self.vertical else ("left of", "right of")
        return [
            f"{a} {before} {b}",
            f"{b} {after} {a}",
            f"There are two shapes: {a}, and {b}.",
            f'The {self.first[1]} is "{self.first[0]}", the {self.second[1]} is {self.second[0]}.',
            f"{a.capitalize()} lies {before} {b}; it's a drawing.",
        ]

    def draw(self, size: int) -> Image.Image:
        """Draw the scene, ``size`` x ``size`` pixels; the shapes' centres lie at a quarter and three quarters."""
        image = Image.new("RGB", (size, size), BACKGROUND)
        for part, share in ((self.first, 0.25), (self.second, 0.75)):
            centre = (size / 2, size * share) if self.vertical else (size * share, size / 2)
            _draw_shape(ImageDraw.Draw(image), *part, centre, size * 0.18)
        return image


def _draw_shape(
    on: ImageDraw.ImageDraw, colour: str, shape: str, centre: tuple[float, float], radius: float
) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        on.ellipse(box, COLOURS[colour])
    elif shape == "square":
        on.rectangle(box, COLOURS[colour])
    else:
        on.polygon(
            [(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], COLOURS[colour]
        )


def scenes(count: int, seed: int) -> list[Scene]:
    """Give ``count`` scenes, the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - pictures, no secrets
    drawn = []
    for _ in range(count):
        first, second = chance.sample(sorted(COLOURS), 2)
        drawn.append(
            Scene(
                (first, chance.choice(SHAPES)),
                (second, chance.choice(SHAPES)),
                chance.random() < 0.5,
            )
        )
    return drawn


def draw_dataset(
    directory: Path, *, count: int = 64, split: str = "train", seed: int = 0, size: int = 224
) -> None:
    """Write ``<directory>/<split>`` with ``count`` JPEGs of ``size`` x ``size`` pixels and their metadata.csv."""
    place = directory / split
    place.mkdir(parents=True, exist_ok=True)
    with (place / "metadata.csv").open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["file_name", *(f"caption_{number}" for number in range(5))])
        for number, scene in enumerate(scenes(count, seed)):
            name = f"{number:06}.jpg"
            scene.draw(size).save(place / name, "JPEG", quality=85)
            table.writerow([name, *scene.captions()])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=64, help="pictures (default: %(default)s)")
    parser.add_argument(
        "--split", default="train", help="directory below FOLDER (default: %(default)s)"
    )
    arguments = parser.parse_args()
    draw_dataset(arguments.directory, count=arguments.count, split=arguments.split)


if __name__ == "__main__":
    main()
