"""The main job, from end to end, on this machine: a Hub over a directory, four ranks that warm a cache, two that train from it."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from draw import draw_dataset

from step37_flickr8k.localhub import LocalHub

TRAIN = Path(__file__).parent.parent / "examples" / "train.py"


def heading(text: str) -> None:
    print(f"\n--- {text}", flush=True)


def torchrun(ranks: int, *command: str, endpoint: str, **variables: str) -> None:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
    ]
    quiet = {
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONWARNINGS": "ignore:Failed to initialize NumPy",
    }
    subprocess.run(
        [*launcher, *command],
        check=True,
        env=os.environ | quiet | variables | {"HF_ENDPOINT": endpoint},
    )


def show(data: Path, cache: Path) -> int:
    with LocalHub(data) as hub:
        warmup = ("-m", "step37_flickr8k", "warmup", "--cache-dir", str(cache))
        report, page = cache.with_name("report.json"), cache.with_name("preview.html")
        heading("a cold cache: rank 0 downloads, three ranks wait")
        torchrun(4, *warmup, "--report", str(report), endpoint=hub.endpoint)
        print(f"the Hub served {len(hub.file_requests()):,} files")

        heading("what the run did, what lies there now, what its pictures look like")
        hub.clear_requests()
        for command in (
            ("report", report),
            ("status", "--cache-dir", cache),
            ("preview", "--cache-dir", cache, "--output", page),
        ):
            subprocess.run(
                [sys.executable, "-m", "step37_flickr8k", *map(str, command)], check=True
            )
        print(
            f"the page has {page.stat().st_size / 1e6:.1f} MB; the Hub was asked {len(hub.requests)} times"
        )

        heading("the same again: a warm cache")
        torchrun(4, *warmup, endpoint=hub.endpoint)
        print(f"the Hub served {len(hub.file_requests()):,} files")

        heading("two training ranks of a gloo group read it, as a training script would")
        torchrun(2, str(TRAIN), endpoint=hub.endpoint, STEP37_CACHE_DIR=str(cache))
        again = len(hub.file_requests())
    if again:
        print(f"the demo failed: a warm cache asked the Hub for {again} files", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        help="directory with train/metadata.csv and the images (default: one drawn now)",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="step37-demo-") as scratch:
        data = arguments.data
        if data is None:
            heading("drawing 64 pictures with captions that are true of them")
            data = Path(scratch) / "data"
            draw_dataset(data)
        if not (data / "train" / "metadata.csv").is_file():
            print(
                f"{data} has no train/metadata.csv: DATA=<directory> wants that layout",
                file=sys.stderr,
            )
            return 2
        return show(data, Path(scratch) / "cache")


if __name__ == "__main__":
    sys.exit(main())
