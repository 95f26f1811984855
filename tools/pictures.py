"""Make the pictures of the README: a warmup of drawn data with a few faults on the way, looked at in a browser.

``make pictures``; with DATA=<directory with train/metadata.csv> of your own data, but then don't
commit them.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from draw import draw_dataset
from PIL import Image

from step37_flickr8k import cli
from step37_flickr8k.localhub import Fault, LocalHub
from tests.helpers.browser import Browser, browser

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def run(*arguments: str) -> None:
    """Run the command, which must do well."""
    code = cli.run(arguments)
    if code:
        sys.exit(f"{arguments[0]} ended with {code}")


def make(data: Path, scratch: Path, seen: Browser) -> None:
    """Warm a cache and take pictures of its pages."""
    cache, report = scratch / "cache", scratch / "report.json"
    with LocalHub(data) as hub:
        hub.faults.add(
            Fault.delay(0.1),
            Fault.status(503, path="train/*.jpg", every=20),
            Fault.quota(200, window=6),
        )
        run(
            "warmup",
            "--cache-dir",
            str(cache),
            "--endpoint",
            hub.endpoint,
            "--concurrency",
            "8",
            "--report",
            str(report),
        )
    # of this machine nothing is shown
    told = json.loads(report.read_text(encoding="utf-8")) | {
        "host": "node-1",
        "cache_dir": "/lustre/team/flickr8k",
    }
    report.write_text(json.dumps(told), encoding="utf-8")
    run("report", str(report), "--html", str(scratch / "report.html"))
    run("preview", "--cache-dir", str(cache), "--output", str(scratch / "preview.html"))
    for name, dark in (("report", False), ("preview", True)):
        seen.open(scratch / f"{name}.html", 1000, dark=dark, height=700)
        seen.picture(scratch / f"{name}.png")
        with Image.open(scratch / f"{name}.png") as image:
            image.convert("RGB").quantize(128).save(IMAGES / f"{name}.png", optimize=True)
        print(f"{IMAGES / name}.png")


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="directory with train/metadata.csv and the images (default: drawn now)",
    )
    data = parser.parse_args().data
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, browser() as seen:
        if data is None:
            data = Path(scratch) / "data"
            draw_dataset(data, count=300)
        make(data, Path(scratch), seen)


if __name__ == "__main__":
    main()
