"""Run the whole job on this machine and tell what happens.

Four ranks fill a cache and start again, then two train from it. What their commands print goes to
demo-output/demo.log. Each figure comes from rank 0's report, the Hub's log of requests or the
training ranks themselves.
"""

import argparse
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import FrameType

from draw import draw_dataset

from step37_flickr8k.localhub import LocalHub

TRAIN = Path(__file__).resolve().parents[1] / "examples" / "train.py"
OUTPUT = Path("demo-output")
LOG = OUTPUT / "demo.log"
CACHE = OUTPUT / "cache"
# Lines of the log that a failure shows.
TAIL = 20
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NoDataset(Exception):
    """A directory can't be used as the dataset; says why."""


class Failed(Exception):
    """The demo has failed; says why."""


def say(text: str) -> None:
    print(text, flush=True)


def environment(endpoint: str) -> dict[str, str]:
    """Return the environment for a Hub at ``endpoint``, without the user's settings and proxies."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STEP37_", "HF_")) and not name.upper().endswith("_PROXY")
    }
    return kept | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(OUTPUT / "hf-home"),
        "STEP37_CACHE_DIR": str(CACHE),
        # Otherwise gloo looks up this machine's own name to find an interface.
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


def run(hub: LocalHub, *command: str | Path) -> str:
    """Run Python with these arguments, its output into the log, and return that output.

    Raises Failed if the exit code isn't 0.
    """
    arguments = [sys.executable, *map(str, command)]
    with LOG.open("ab") as log:
        log.write(f"\n$ {shlex.join(arguments)}\n".encode())
        log.flush()
        start = log.tell()
        # torchrun ends its ranks at the first signal; at a second one, or at SIGKILL, it leaves
        # them behind. In a session of its own it doesn't get the terminal's Ctrl-C, too.
        process = subprocess.Popen(
            arguments,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(hub.endpoint),
            start_new_session=True,
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    printed = LOG.read_bytes()[start:].decode(errors="replace")
    if code:
        # Here torchrun begins to tell of a failure: 50 lines, which don't name the cause.
        ranks = re.split(r"^.*\bfailed \(exitcode: ", printed, maxsplit=1, flags=re.MULTILINE)[0]
        tail = "\n".join(ranks.splitlines()[-TAIL:])
        raise Failed(f"{tail}\n{shlex.join(arguments)} ended with exit code {code}")
    return printed


def torchrun(hub: LocalHub, ranks: int, *command: str | Path) -> str:
    """Run a command as so many ranks and return what they printed."""
    # What --standalone stands for, with addresses instead of names: torchrun hangs where the
    # machine's own name doesn't resolve.
    launcher = (
        "-m",
        "torch.distributed.run",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
        "--local-addr=127.0.0.1",
        f"--rdzv-id={uuid.uuid4()}",
        f"--nproc-per-node={ranks}",
    )
    return run(hub, *launcher, *command)


def served(hub: LocalHub) -> int:
    """Return how many files the Hub has served; raises Failed if it served one of them twice."""
    names = [request.repo_path for request in hub.file_requests()]
    if len(names) > len({*names}):
        raise Failed(f"the Hub served {len(names)} files for {len({*names})} different ones")
    return len(names)


def warm_up(hub: LocalHub, report: Path) -> None:
    """Run the warmup as four ranks and say what each of them did."""
    hub.clear_requests()
    torchrun(hub, 4, "-m", "step37_flickr8k", "warmup", "--report", report)
    told = json.loads(report.read_text(encoding="utf-8"))
    if told["warm"]:
        say("  Rank 0 found the cache complete and downloaded nothing.")
    else:
        size, seconds = told["bytes"] / 1e6, told["seconds"]["fetching"]
        say(f"  Rank 0 downloaded {told['files']:,} images, {size:,.1f} MB, in {seconds:.1f} s.")
    waited = [rank["waited"] for number, rank in told["ranks"].items() if number != "0"]
    seconds = f"{min(waited):.1f} to {max(waited):.1f} s"
    say(
        f"  Ranks 1 to 3 waited for it, {seconds}, then found {told['rows']:,} samples in the cache."
    )


def tell(data: Path) -> None:
    """Run the job over a dataset, step by step."""
    with LocalHub(data) as hub:
        say(f"A Hub on this machine serves it as intro/flickr8k at {hub.endpoint}.")

        say("\nFirst run: 4 ranks of `step37-flickr8k warmup`, with an empty cache.")
        warm_up(hub, OUTPUT / "report.json")
        say(
            f"  The Hub served {served(hub):,} files, none of them twice: the images and metadata.csv."
        )

        say("\nSecond run: the same command, with the cache that the first run filled.")
        warm_up(hub, OUTPUT / "second-report.json")
        asked = ", ".join(one.path.partition("?")[0] for one in hub.requests)
        say(
            f"  The Hub served {served(hub):,} files; requests in all: {len(hub.requests)} ({asked})."
        )

        say("\nTraining: 2 ranks of `examples/train.py`, a gloo group that reads the same cache.")
        trained = torchrun(hub, 2, TRAIN)
        for line in sorted(line for line in trained.splitlines() if ": epoch " in line):
            say(f"  {line}")
        again = served(hub)
        say(f"  The Hub served {again:,} files.")
        if again:
            raise Failed(f"with a warm cache the Hub served {again:,} files")

        page, report = OUTPUT / "preview.html", OUTPUT / "report.json"
        run(hub, "-m", "step37_flickr8k", "preview", "--output", page)
        run(hub, "-m", "step37_flickr8k", "report", report, "--html", OUTPUT / "report.html")
    say("\nWhat to open next:")
    say(f"  {page}  the images with their captions: open it in a browser")
    say(f"  {OUTPUT}/report.html   what the first run did, and how long each part took")
    say(f"  {CACHE}/        the cache, as training jobs find it")
    say(f"  {LOG}      everything that the commands printed")


def first_caption(data: Path) -> str:
    """Return the first caption of a dataset; raises NoDataset if the directory holds none."""
    table = data / "train" / "metadata.csv"
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if row.get("file_name")]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise NoDataset(f"can't read {table} ({reason})") from None
    for row in rows:
        if caption := (row.get("caption_0") or "").strip():
            return caption
    raise NoDataset(f"{table} has no row with a file_name and a caption_0")


def prepare(data: Path | None) -> Path:
    """Empty the output directory, say what the dataset is and return where; drawn if None."""
    if data is not None:
        if data.resolve().is_relative_to(OUTPUT.resolve()):
            raise NoDataset(f"{data} is in {OUTPUT}, which each run empties")
        caption = first_caption(data)
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    if data is None:
        data = OUTPUT / "data"
        draw_dataset(data, count=64)
        caption = first_caption(data)
        say("A dataset: 64 images of two shapes, drawn now, with captions that are true of them.")
    else:
        say(f"A dataset: {data}.")
    say(f"  Its first caption: {caption}")
    return data


def stop(number: int, _: FrameType | None) -> None:
    """End at the first signal; a second one would disturb the end of the ranks."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        help="directory with train/metadata.csv and the images (default: one drawn now)",
    )
    arguments = parser.parse_args()
    for each in SIGNALS:
        # nohup and a shell's background jobs ignore some of them on purpose.
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, stop)
    start = time.monotonic()
    try:
        tell(prepare(arguments.data))
    except NoDataset as error:
        print(f"{error}: name a directory with train/metadata.csv", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"{error}\nThe demo failed. The whole log: {LOG}", file=sys.stderr)
        return 1
    say(f"Done in {time.monotonic() - start:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
