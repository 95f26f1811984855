"""What somebody can do who has installed the wheel alone, without torch; ``make dist`` runs it in such an environment.

Draws a dataset, serves it with the wheel's own Hub, and fills a cache from it with the command and
with the library.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from draw import draw_dataset

import step37_flickr8k

COMMAND = Path(sys.executable).with_name("step37-flickr8k")
CACHE = ("--cache-dir", "cache")


def check(holds: bool, what: str) -> None:
    """Stop with these words where it doesn't hold."""
    if not holds:
        sys.exit(f"the wheel alone fails: {what}")


def run(*arguments: str, code: int = 0, **environment: str) -> str:
    """Run the command, which must end with this code; give what it said."""
    done = subprocess.run(
        [COMMAND, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    check(done.returncode == code, f"{' '.join(arguments)} ended with {done.returncode}:\n{said}")
    return said


@contextlib.contextmanager
def hub(directory: str) -> Iterator[str]:
    """Serve a directory with the command; give the address."""
    serving = subprocess.Popen([COMMAND, "hub", directory], stdout=subprocess.PIPE, text=True)
    assert serving.stdout is not None  # noqa: S101 - for mypy
    try:
        yield serving.stdout.readline().strip().removeprefix("export HF_ENDPOINT=")
    finally:
        serving.terminate()
        serving.communicate()


def main() -> None:
    """Try it all."""
    check(
        Path(step37_flickr8k.__file__).is_relative_to(sys.prefix),
        f"the import found {step37_flickr8k.__file__}",
    )
    check(
        importlib.util.find_spec("torch") is None, "torch is here, so nothing is tried without it"
    )
    version = importlib.metadata.version("step37-flickr8k")
    check(
        run("--version").split() == ["step37-flickr8k", version],
        "--version, the import and the metadata differ",
    )
    check("warmup" in run("--help"), "--help names no warmup")
    draw_dataset(Path("data"), count=12)
    with hub("data") as endpoint:
        os.environ["HF_ENDPOINT"] = endpoint
        check("12" in run("plan", *CACHE), "plan doesn't find 12 images")
        samples = step37_flickr8k.prepare_flickr8k_samples(sample_count=5, cache_dir="cache")
        check(len(samples) == 5, f"the library gave {len(samples)} of 5 samples")
        run("warmup", *CACHE, "--report", "report.json")
        for look in (
            ("verify", *CACHE),
            ("status", *CACHE),
            ("preview", *CACHE),
            ("report", "report.json", "--html", "report.html"),
        ):
            run(*look)
        run("doctor", *CACHE)
    two = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    check(
        "need torch" in run("warmup", *CACHE, code=2, **two),
        "two ranks without torch aren't told what is missing",
    )
    print(
        f"step37-flickr8k {version}, Python {sys.version.split()[0]}: does what needs no torch, and says what does"
    )


if __name__ == "__main__":
    main()
