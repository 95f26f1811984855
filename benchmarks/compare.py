"""What the usual ways to fill a shared directory do with the same faults, each really injected: ``make compare``.

Four ranks, as processes of this machine, fill one directory from the local Hub; a way is what a
training script would write. Nobody ends the other ranks when one has died, as torchrun would.
``--write`` puts the table into docs/comparison.md and into the README.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

from crowd import free_port
from draw import draw_dataset

from step37_flickr8k.localhub import Fault, LocalHub

ROOT = Path(__file__).parents[1]
RANKS = 4
FILES = 100
MIDDLE = "train/000050.jpg"
DEFAULT_TIMEOUT = 1800  # s: gloo's own
# Of the environment of who runs this
KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG")

# flock as other file systems have it, and another host's name: both are asked for by the
# environment of a rank.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
int flock(int fd, int operation) {
  const char *how = getenv("COMPARE_FLOCK");
  if (how && !strcmp(how, "noop")) return 0;
  if (how && !strcmp(how, "ENOLCK")) { errno = ENOLCK; return -1; }
  if (how && !strcmp(how, "ENOSYS")) { errno = ENOSYS; return -1; }
  return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(fd, operation);
}
int gethostname(char *name, size_t size) {
  const char *host = getenv("COMPARE_HOST");
  if (host) { strncpy(name, host, size); return 0; }
  return ((int (*)(char *, size_t))dlsym(RTLD_NEXT, "gethostname"))(name, size);
}
"""

_context = multiprocessing.get_context("forkserver")


# --- the ways -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a rank's script is given."""

    rank: int
    endpoint: str
    directory: str
    timeout: float | None
    """Seconds of the process group's timeout; None: nobody has set one."""

    @property
    def delta(self) -> timedelta:
        """The timeout as torch wants it."""
        return timedelta(seconds=self.timeout or DEFAULT_TIMEOUT)


def snapshot(job: Job) -> None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - imported before the rank is forked

    snapshot_download(
        "intro/flickr8k", repo_type="dataset", local_dir=job.directory, endpoint=job.endpoint
    )


def init_group(job: Job) -> None:
    import torch.distributed as dist  # noqa: PLC0415

    dist.init_process_group("gloo", timeout=job.delta)


def with_a_barrier(job: Job) -> None:
    import torch.distributed as dist  # noqa: PLC0415

    init_group(job)
    if job.rank == 0:
        snapshot(job)
    dist.barrier()


def with_accelerate(job: Job) -> None:
    from accelerate import PartialState  # noqa: PLC0415

    with PartialState(cpu=True, timeout=job.delta).main_process_first():
        snapshot(job)


def with_fabric(job: Job) -> None:
    from lightning_fabric import Fabric  # noqa: PLC0415
    from lightning_fabric.strategies import DDPStrategy  # noqa: PLC0415

    strategy = DDPStrategy(process_group_backend="gloo", timeout=job.delta)
    fabric = Fabric(accelerator="cpu", devices=RANKS, strategy=strategy)
    fabric.launch()
    with fabric.rank_zero_first():
        snapshot(job)


def with_ours(job: Job) -> None:
    """Be the command; where the fault is a group's timeout, the library in such a group."""
    from step37_flickr8k import cli, prepare_flickr8k_samples  # noqa: PLC0415

    if job.timeout:
        init_group(job)
        prepare_flickr8k_samples(sample_count=None, cache_dir=job.directory)
    elif code := cli.run(["warmup", "--cache-dir", job.directory, "--log-format", "json"]):
        sys.exit(code)


@dataclass(frozen=True)
class Way:
    """A column: its words, the distribution whose version it shows, what each rank runs, and what that imports."""

    name: str
    distribution: str
    script: Callable[[Job], None]
    modules: tuple[str, ...] = (
        "torch.distributed",
        "huggingface_hub.hf_api",
        "huggingface_hub._snapshot_download",
    )

    @property
    def heading(self) -> str:
        """The column's heading, with the version that runs."""
        return f"{self.name} ({self.distribution} {version(self.distribution).partition('+')[0]})"


WAYS = (
    Way("`snapshot_download` on every rank", "huggingface_hub", snapshot),
    Way("`snapshot_download` on rank 0, then `barrier()`", "torch", with_a_barrier),
    Way("`main_process_first()`", "accelerate", with_accelerate, ("accelerate",)),
    Way(
        "`rank_zero_first()`",
        "lightning-fabric",
        with_fabric,
        ("lightning_fabric", "lightning_fabric.strategies"),
    ),
    Way(
        "`step37-flickr8k warmup`",
        "step37-flickr8k",
        with_ours,
        ("step37_flickr8k.job.warmup", "step37_flickr8k.report.model"),
    ),
)


# --- the faults -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A row: what goes wrong, and when.

    ``first`` is what happened in the directory before, by the same way: "filled", whereafter
    ``damage`` was done to one file, or "killed", all ranks in the middle of the download, on a node
    that is gone. ``bound`` is how long to wait for the ranks.
    """

    name: str
    hub: tuple[Fault, ...] = ()
    flock: str = ""
    kill_rank_0: bool = False
    first: str = ""
    damage: Callable[[bytes], bytes] | None = None
    timeout: float | None = None
    bound: float = 60.0
    in_readme: bool = False


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


STALL = Fault.stall(9, path=MIDDLE, times=1)
TROUBLES = (
    Trouble(name="nothing goes wrong"),
    Trouble(name="rank 0 is killed in the middle", hub=(STALL,), kill_rank_0=True),
    Trouble(
        name="one 503",
        hub=(Fault.status(503, path=MIDDLE, kind="cdn", times=1),),
        in_readme=True,
    ),
    Trouble(
        name="one byte is wrong in transit",
        hub=(Fault.corrupt(path=MIDDLE, times=1),),
        in_readme=True,
    ),
    Trouble(
        name="a cached file has lost its end",
        first="filled",
        damage=lambda content: content[: len(content) // 2],
        in_readme=True,
    ),
    Trouble(name="a cached file has one wrong byte", first="filled", damage=_flip),
    Trouble(
        name="a lock of a dead node, without `flock`",
        first="killed",
        flock="ENOSYS",
        bound=150.0,
        in_readme=True,
    ),
    Trouble(name="`flock` is a no-op", flock="noop"),
    Trouble(name="`flock` is refused", flock="ENOLCK"),
    Trouble(name="the group's timeout is shorter than the download", hub=(STALL,), timeout=5.0),
)


# --- running them ---------------------------------------------------------------------------------


def be_a_rank(
    script: Callable[[Job], None], job: Job, out: str, environment: dict[str, str]
) -> None:
    """Run the script, keep how it ended, and stay as a training would."""
    os.environ.update(environment)
    descriptor = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    error = ""
    try:
        script(job)
    except SystemExit as ending:
        error = f"exit {ending.code}"
    except BaseException as ending:  # noqa: BLE001 - an ending like any other
        print(ending, file=sys.stderr, flush=True)
        error = type(ending).__name__
    Path(f"{out}.new").write_text(json.dumps(error))
    Path(f"{out}.new").rename(f"{out}.json")
    if error:
        os._exit(1)
    signal.pause()


class Ranks:
    """The ranks of one job."""

    def __init__(
        self, way: Way, hub: LocalHub, directory: Path, trouble: Trouble, host: str
    ) -> None:
        self.out = Path(tempfile.mkdtemp(dir=directory.parent))
        place = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(RANKS),
        }
        place |= {
            "LOCAL_WORLD_SIZE": str(RANKS),
            "GROUP_RANK": "0",
            "STEP37_ENDPOINT": hub.endpoint,
            "COMPARE_HOST": host,
        }
        place |= {"TORCHELASTIC_RUN_ID": self.out.name, "COMPARE_FLOCK": trouble.flock}
        self.processes = []
        for rank in range(RANKS):
            job = Job(
                rank=rank, endpoint=hub.endpoint, directory=str(directory), timeout=trouble.timeout
            )
            of_rank = place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            arguments = (way.script, job, str(self.out / str(rank)), of_rank)
            self.processes.append(_context.Process(target=be_a_rank, args=arguments, daemon=True))
        for process in self.processes:
            process.start()

    def ending(self, rank: int) -> str | None:
        """Give the error that a rank ended with, "" for none; None while it runs."""
        said = self.out / f"{rank}.json"
        if said.exists():
            error = str(json.loads(said.read_text()))
            named = re.findall(r'"error": "(\w+)"', (self.out / f"{rank}.log").read_text())
            return named[-1] if error.startswith("exit") and named else error
        if self.processes[rank].is_alive():
            return None
        code = self.processes[rank].exitcode
        return "killed" if code == -signal.SIGKILL else f"exit {code}"

    def wait(self, bound: float) -> tuple[list[str | None], float]:
        """Wait for all, but no longer; give their endings and the seconds until the last."""
        start = time.monotonic()
        while time.monotonic() - start < bound and any(
            self.ending(rank) is None for rank in range(RANKS)
        ):
            time.sleep(0.05)
        return [self.ending(rank) for rank in range(RANKS)], time.monotonic() - start

    def end(self) -> None:
        """End what still runs."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


@dataclass
class Cell:
    """What happened."""

    endings: list[str | None]
    seconds: float
    bound: float
    wrong: int
    missing: int
    downloads: list[int] = field(default_factory=list)

    def words(self) -> str:
        """Say it so that another machine would say the same."""
        counted = [ending for ending in self.endings if ending != "killed"]
        groups: dict[str, list[int]] = {}
        for rank, ending in enumerate(self.endings):
            if ending != "killed":
                told = (
                    "end well"
                    if ending == ""
                    else f"hang (> {self.bound:.0f} s)"
                    if ending is None
                    else f"fail: `{ending}`"
                )
                groups.setdefault(told, []).append(rank)
        parts = [
            f"{len(ranks)} of {len(counted)} {told}"
            for told, ranks in sorted(groups.items(), key=lambda item: item[1])
        ]
        told = "; ".join(parts)
        if None not in counted and self.seconds >= 20:
            told += f", after {round(self.seconds, -1):.0f} s"
        if "" in counted and self.wrong:
            told += "; **a wrong file stays**"
        if "" in counted and self.missing:
            told += "; **files are missing**"
        many = sum(times > 1 for times in self.downloads) > FILES / 10
        return told + (f"; files downloaded up to {max(self.downloads)} times" if many else "")


def in_the_middle(hub: LocalHub, bound: float) -> None:
    """Wait until the stalled file was asked for, but no longer, and all ranks had the time to come; the stall is longer."""
    deadline = time.monotonic() + bound
    while not any(one.repo_path == MIDDLE and one.kind == "cdn" for one in hub.requests):
        if time.monotonic() > deadline:
            raise TimeoutError("nobody asked for the file in the middle")
        time.sleep(0.02)
    time.sleep(5)


def prepare(way: Way, hub: LocalHub, directory: Path, trouble: Trouble) -> None:
    """Let happen what happened before."""
    if trouble.first == "killed":
        hub.faults.add(STALL)
    ranks = Ranks(way, hub, directory, trouble, "node-gone")
    try:
        if trouble.first == "killed":
            in_the_middle(hub, trouble.bound)
        elif set(endings := ranks.wait(trouble.bound)[0]) != {""}:
            raise RuntimeError(f"the ranks that should fill the directory ended with {endings}")
    finally:
        ranks.end()
    hub.faults.clear()
    if trouble.damage:
        victim = directory / MIDDLE
        times = victim.stat()
        victim.write_bytes(trouble.damage(victim.read_bytes()))
        # As a disk or a lost write leaves it
        os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    hub.clear_requests()


def compare(directory: Path, data: Path) -> tuple[int, int]:
    """Count the files that are wrong in the directory, and those that are missing."""
    wrong = missing = 0
    for path in (data / "train").iterdir():
        held = directory / "train" / path.name
        missing += not held.exists()
        wrong += held.exists() and held.read_bytes() != path.read_bytes()
    return wrong, missing


def run(way: Way, trouble: Trouble, data: Path, keep: Path | None) -> Cell:
    """Let one way meet one trouble, and look what is left."""
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch, LocalHub(data) as hub:
        directory = Path(scratch) / "shared"
        if trouble.first:
            prepare(way, hub, directory, trouble)
        hub.faults.add(*trouble.hub, Fault.delay(0.05, kind="resolve"))
        ranks = Ranks(way, hub, directory, trouble, "node-1")
        try:
            if trouble.kill_rank_0:
                in_the_middle(hub, trouble.bound)
                ranks.processes[0].kill()
            endings, seconds = ranks.wait(trouble.bound)
        finally:
            ranks.end()
        if keep:
            shutil.copytree(
                ranks.out, keep / f"{trouble.name}, {way.distribution}", dirs_exist_ok=True
            )
        wrong, missing = compare(directory, data)
        downloads = Counter(request.repo_path for request in hub.file_requests())
        return Cell(endings, seconds, trouble.bound, wrong, missing, list(downloads.values()))


# --- the table ------------------------------------------------------------------------------------


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def table(ways: Sequence[Way], rows: dict[Trouble, list[str]]) -> str:
    head = line(["", *(way.heading for way in ways)]) + "|---" * (len(ways) + 1) + "|\n"
    return head + "".join(line([trouble.name, *cells]) for trouble, cells in rows.items())


def in_short(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the README's table: of each way its name, of each fault whether all ends well."""
    names = [cell.partition(" (")[0] for cell in heading]
    shown = {trouble.name for trouble in TROUBLES if trouble.in_readme}
    chosen = [[row[0], *map(mark, row[1:])] for row in rows if row[0] in shown]
    return line(names) + "|---" * len(names) + "|\n" + "".join(map(line, chosen))


def mark(cell: str) -> str:
    """Return a cell in one word: a tick where every rank ends well with the right bytes."""
    for words, short in (("hang", "hangs"), ("fail", "fails"), ("stays", "a wrong file stays")):
        if words in cell:
            return f"✗ {short}"
    times = re.search(r"up to (\d+) times", cell)
    return f"✓ with {times[1]} downloads" if times else "✓"


def write(document: Path, text: str) -> None:
    """Put the text between the marks, which must be there."""
    before, start, rest = document.read_text(encoding="utf-8").partition("<!-- comparison -->\n")
    _, end, after = rest.partition("<!-- /comparison -->")
    if not end:
        sys.exit(
            f"{document} has no table to replace: put <!-- comparison --> and <!-- /comparison --> where it belongs"
        )
    document.write_text(before + start + text + end + after, encoding="utf-8")


def shim(scratch: Path) -> Path:
    """Compile what stands before the C library's flock and gethostname."""
    if shutil.which("gcc") is None:
        sys.exit("gcc isn't here: apt-get install gcc libc6-dev")
    source = scratch / "shim.c"
    source.write_text(SHIM)
    library = source.with_suffix(".so")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)  # noqa: S607
    return library


def run_all(
    ways: Sequence[Way], troubles: Sequence[Trouble], data: Path, keep: Path | None
) -> Iterator[tuple[Trouble, list[str]]]:
    """Give a row after the other; two jobs run at once, and beside them those that mostly wait."""
    with ThreadPoolExecutor(len(ways)) as waiting, ThreadPoolExecutor(2) as working:
        pending = []
        for trouble in troubles:
            pool = waiting if trouble.bound > Trouble.bound else working
            pending.append((trouble, [pool.submit(run, way, trouble, data, keep) for way in ways]))
        for trouble, futures in pending:
            cells = [future.result().words() for future in futures]
            print("; ".join([trouble.name, *cells]), file=sys.stderr, flush=True)
            yield trouble, cells


def parse(
    arguments: Sequence[str] | None = None,
) -> tuple[argparse.Namespace, list[Way], list[Trouble]]:
    """Give the options, and the ways and the faults that they choose."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", default="", help="only faults whose name contains this")
    parser.add_argument(
        "--way", default="", help="only ways whose name or distribution contains this"
    )
    parser.add_argument("--keep", type=Path, help="directory for what the ranks said")
    parser.add_argument("--write", action="store_true", help="put the table into the documents")
    options = parser.parse_args(arguments)
    if options.write and (options.fault or options.way):
        parser.error("--write puts whole tables into the documents: leave out --fault and --way")
    ways = [way for way in WAYS if options.way in way.name + way.distribution]
    troubles = [trouble for trouble in TROUBLES if options.fault in trouble.name]
    if not (ways and troubles):
        parser.error(
            f"nothing matches --fault {options.fault!r} and --way {options.way!r}: give a part of a name in the table"
        )
    return options, ways, troubles


def main() -> None:
    options, ways, troubles = parse()
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        replacement = environment(shim(Path(scratch)), Path(scratch))
        os.environ.clear()
        os.environ |= replacement
        _context.set_forkserver_preload(
            ["__main__", *(module for way in ways for module in way.modules)]
        )
        draw_dataset(Path(scratch) / "data", count=FILES)
        rows = dict(run_all(ways, troubles, Path(scratch) / "data", options.keep))
    print(table(ways, rows))
    if options.write:
        write(ROOT / "docs/comparison.md", table(ways, rows))
        heading = ["", *(way.heading for way in ways)]
        cells = [[trouble.name, *cells] for trouble, cells in rows.items()]
        write(ROOT / "README.md", in_short(heading, cells))


def environment(library: Path, scratch: Path) -> dict[str, str]:
    """Give what all ranks have: the shim, no Xet (the faults are of plain HTTP), no bars; nobody's login, launcher or proxy."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT}
    quiet = {
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return (
        kept
        | quiet
        | {
            "LD_PRELOAD": str(library),
            "HF_HOME": str(scratch / "home"),
            "TORCH_CPP_LOG_LEVEL": "FATAL",
        }
    )


if __name__ == "__main__":
    main()
