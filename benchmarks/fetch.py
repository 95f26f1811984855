"""How fast a cold and a warm cache are filled, beside the usual ways, from one nginx that speaks the Hub's protocol.

`make bench-fetch`, or `make bench-fetch DATA=<directory>` for photographs of your own (a directory
with `train/*.jpg`). Every way runs in turn, as a process of its own, on the same server: seconds
are medians of the runs, CPU and memory the kernel's own figures of the process. Ours ends with all
of it on the disk (one syncfs); the other ways leave that to the kernel. A wire of 1 Gbit/s is one
between two network namespaces, with tc's token bucket, for root. A last table lets a Hub with faults
answer every tenth request wrongly.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from draw import draw_dataset
from photographs import distinct, resized

from step37_flickr8k.localhub import Fault, LocalHub

REPO = "bench/flickr8k"
COMMIT = "c" * 40
PARQUET = "refs/convert/parquet"
PAGE = 1000
SIZE = 120_000  # bytes of an image at least; with those above it 130 KB in the mean, as Flickr8k's
PHOTOGRAPHS = 300  # different ones; the files differ by a comment
SAMPLE = 200  # files of the loop of hf_hub_download, which is then scaled

NGINX = """
load_module {modules}/ngx_http_echo_module.so;
worker_processes 2; daemon off; pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log {root}/access.log; sendfile on; keepalive_requests 100000;
  map_hash_max_size 65536; map_hash_bucket_size 512;
  default_type application/octet-stream; etag off;
  client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4;
  scgi_temp_path {root}/t5;
  map $uri $sha {{ include {root}/digests; }}
  map $arg_cursor $next {{ include {root}/cursors; }}
  map $arg_cursor $page {{ default 0; "~^(\\d+)$" $1; }}
{servers}
}}
"""
SERVER = """
  server {{
    listen {address}:{port}; {rate}
    location /api/ {{ {sleep} echo_exec /answer$uri$is_args$args; }}
    location /datasets/ {{ {sleep} echo_exec /file$uri; }}
    location ~ ^/answer/api/datasets/{repo}/revision/ {{ internal; default_type application/json; alias {root}/info.json; }}
    location ~ ^/answer/api/datasets/{repo}/tree/{parquet} {{
      internal; default_type application/json; alias {root}/parquet.json; }}
    location ~ ^/answer/api/datasets/{repo}/tree/ {{
      internal; default_type application/json; add_header Link $next; alias {root}/tree-$page.json; }}
    location ~ ^/file/datasets/{repo}/resolve/{parquet}/(?<name>.*)$ {{
      internal; add_header X-Repo-Commit {commit}; add_header ETag '"$name"'; alias {root}/parquet/$name; }}
    location ~ ^/file/datasets/{repo}/resolve/[^/]+/(?<name>.*)$ {{
      internal; add_header X-Repo-Commit {commit}; add_header ETag '"$sha"'; alias {root}/data/$name; }}
  }}
"""


@dataclass(frozen=True)
class Network:
    """How the server answers, in nginx's words; ``port`` is below the ephemeral range."""

    title: str
    port: int
    sleep: str = ""
    rate: str = ""
    address: str = "127.0.0.1"


WIRE_HERE, WIRE_THERE = "10.231.77.1", "10.231.77.2"
NETWORKS = {
    "0ms": Network("0 ms a request", 18310),
    "50ms": Network("50 ms a request", 18311, sleep="echo_sleep 0.05;"),
    "1gbit": Network("a wire of 1 Gbit/s", 18312, address=WIRE_THERE),
    # As a CDN, or a long way, gives one connection a part of the bandwidth. nginx counts from the
    # second second on, so this concerns long answers alone.
    "25mb": Network("25 MB/s a connection", 18313, rate="limit_rate 25m;"),
}
USUAL = ("0ms", "50ms", "1gbit")


@dataclass
class Measured:
    """One run of one way."""

    seconds: float
    cpu: float
    peak: float  # MB above a bare interpreter, or of the whole process for a program that is none
    requests: int
    wrong: int
    failed: bool


@dataclass
class Way:
    """A way to fetch the dataset: a command for an endpoint and a directory, cold and warm."""

    name: str
    command: Callable[[str, Path], Sequence[str]]
    share: float = 1.0  # of the files
    python: bool = True
    again: bool = False  # whether a warm rerun means anything
    runs: list[Measured] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="directory with train/*.jpg; without it pictures are drawn"
    )
    parser.add_argument("--files", type=int, default=6000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--as-they-are", action="store_true", help="leave the photographs as small as they are"
    )
    parser.add_argument(
        "--only", nargs="*", default=[""], help="ways whose name contains one of these"
    )
    parser.add_argument(
        "--network", nargs="*", choices=NETWORKS, default=USUAL, help="only over these"
    )
    parser.add_argument("--no-faults", action="store_true", help="without the second table")
    options = parser.parse_args()
    modules = Path("/usr/lib/nginx/modules")
    missing = [
        name
        for name in ("nginx", "curl", "aria2c")
        if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin") is None
    ]
    if missing or not (modules / "ngx_http_echo_module.so").exists():
        told = ", ".join(missing) or "nginx's echo module"
        sys.exit(f"{told}: not here: apt-get install nginx-light libnginx-mod-http-echo curl aria2")
    with tempfile.TemporaryDirectory(prefix="bench-fetch-") as directory:
        root = Path(directory)
        root.chmod(0o755)
        spread(root)
        digests = make_data(root, options.data, options.files, 0 if options.as_they_are else SIZE)
        prepare_server(root, digests)
        for name in options.network:
            network = NETWORKS[name]
            with contextlib.ExitStack() as stack:
                has_wire = network.address == WIRE_THERE
                prefix = stack.enter_context(wire()) if has_wire else ()
                stack.enter_context(serving(root, network, modules, prefix))
                bench(root, network, digests, options)
        if not options.no_faults:
            faults(root)


def spread(root: Path) -> None:
    """Let each directory in this one have a block group of its own, on ext4.

    There a file takes many times longer to create for minutes after others were deleted beside it,
    and some ways delete one of their own for each one they fetch: that must not count for who comes
    next.
    """
    if program := shutil.which("chattr"):
        # Other file systems have no such flag
        subprocess.run([program, "+T", str(root)], check=False, stderr=subprocess.DEVNULL)


# --- the data and its server ----------------------------------------------------------------------


def make_data(root: Path, source: Path | None, count: int, least: int) -> dict[str, str]:
    """Lay out ``count`` distinct pictures, their metadata.csv and their Parquet; give each one's sha256 by name."""
    split = root / "data" / "train"
    split.mkdir(parents=True)
    if source is None:
        source = root / "drawn"
        draw_dataset(source, count=300)
    paths = sorted((source / "train").glob("*.jpg"))[: PHOTOGRAPHS if least else None]
    pictures = [path.read_bytes() for path in paths]
    if least:
        pictures = [resized(picture, least) for picture in pictures]
    if not pictures:
        sys.exit(f"{source} holds no train/*.jpg: choose another DATA")
    digests: dict[str, str] = {}
    for number, picture in zip(range(count), itertools.cycle(pictures), strict=False):
        content = distinct(picture, number)
        (split / f"{number:05}.jpg").write_bytes(content)
        digests[f"train/{number:05}.jpg"] = hashlib.sha256(content).hexdigest()
    rows = "".join(f"{Path(name).name},a caption of {name}\n" for name in digests)
    (split / "metadata.csv").write_text(f"file_name,caption_0\n{rows}")
    convert(root, split)
    size = sum(path.stat().st_size for path in split.iterdir())
    print(f"{count:,} files, {size / 1e6:.0f} MB, {size / count / 1e3:.0f} KB each\n")
    return digests


def convert(root: Path, split: Path) -> None:
    """Write the Parquet file as the Hub's converter does: image bytes as they are, 100 rows a row group."""
    import pyarrow as pa  # noqa: PLC0415 - the faults need none
    import pyarrow.parquet as pq  # noqa: PLC0415

    target = root / "parquet" / "default" / "train"
    target.mkdir(parents=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("caption_0", pa.string())])
    paths = sorted(split.glob("*.jpg"))
    with pq.ParquetWriter(target / "0000.parquet", schema) as writer:
        for start in range(0, len(paths), 100):
            some = paths[start : start + 100]
            images = [{"bytes": path.read_bytes(), "path": path.name} for path in some]
            writer.write_table(
                pa.table({"image": images, "caption_0": ["a caption"] * len(some)}, schema=schema)
            )


def prepare_server(root: Path, digests: dict[str, str]) -> None:
    """Write what the server answers as a Hub."""
    metadata = (root / "data/train/metadata.csv").read_bytes()
    blob = hashlib.sha1(b"blob %d\0%s" % (len(metadata), metadata)).hexdigest()  # noqa: S324 - git's
    entries = [{"type": "file", "oid": blob, "size": len(metadata), "path": "train/metadata.csv"}]
    for name, digest in digests.items():
        size = (root / "data" / name).stat().st_size
        lfs = {"oid": digest, "size": size, "pointerSize": 130}
        entries.append({"type": "file", "oid": "0" * 40, "size": size, "lfs": lfs, "path": name})
    pages = [entries[start : start + PAGE] for start in range(0, len(entries), PAGE)]
    for number, page in enumerate(pages):
        (root / f"tree-{number}.json").write_text(json.dumps(page))
    tree = f"http://$http_host/api/datasets/{REPO}/tree/{COMMIT}?recursive=$arg_recursive&expand=$arg_expand&cursor="
    following = [
        f"""'{number or ""}' '<{tree}{number + 1}>; rel="next"';"""
        for number in range(len(pages) - 1)
    ]
    (root / "cursors").write_text("\n".join(["volatile;", *following]))
    prefix = f"/file/datasets/{REPO}/resolve/{COMMIT}"
    lines = [f"{prefix}/{name} {digest};" for name, digest in digests.items()]
    (root / "digests").write_text(
        "\n".join(["volatile;", f"{prefix}/train/metadata.csv {blob};", *lines])
    )
    siblings = [{"rfilename": entry["path"]} for entry in entries]
    (root / "info.json").write_text(json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}))
    parquet = [
        {
            "type": "file",
            "oid": "0" * 40,
            "size": path.stat().st_size,
            "path": path.relative_to(root / "parquet").as_posix(),
        }
        for path in sorted((root / "parquet").rglob("*.parquet"))
    ]
    (root / "parquet.json").write_text(json.dumps(parquet))


@contextlib.contextmanager
def serving(root: Path, network: Network, modules: Path, prefix: Sequence[str]) -> Iterator[None]:
    """Serve as a Hub over a network; ``prefix`` runs a command where that ends."""
    names = {"repo": REPO, "commit": COMMIT, "parquet": PARQUET, "root": root}
    server = SERVER.format(
        **names, **{name: getattr(network, name) for name in ("address", "port", "rate", "sleep")}
    )
    (root / "nginx.conf").write_text(NGINX.format(root=root, modules=modules, servers=server))
    path = os.environ["PATH"] + ":/usr/sbin"
    program = str(shutil.which("nginx", path=path))
    log, config = f"{root}/error.log", f"{root}/nginx.conf"
    process = subprocess.Popen([*prefix, program, "-e", log, "-c", config, "-g", "user root;"])
    try:
        # Written when the port is its own; it tries for a while
        while not (root / "pid").exists():
            if process.poll() is not None:
                sys.exit((root / "error.log").read_text())
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()
        (root / "pid").unlink(missing_ok=True)


@contextlib.contextmanager
def wire() -> Iterator[Sequence[str]]:
    """Lay a wire of 1 Gbit/s to a network namespace; give the words that run a command there."""
    there, near, far = "step37-bench", "step37-near", "step37-far"
    shape = f"tc qdisc add dev {far} root tbf rate 1gbit burst 256kb latency 50ms"
    steps = (
        f"ip netns add {there}",
        f"ip link add {near} type veth peer name {far} netns {there}",
        f"ip addr add {WIRE_HERE}/30 dev {near}",
        f"ip link set {near} up",
        f"ip -n {there} addr add {WIRE_THERE}/30 dev {far}",
        f"ip -n {there} link set {far} up",
        f"ip netns exec {there} {shape}",
    )
    try:
        for step in steps:
            done = subprocess.run(step.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"no wire: {step}: {done.stderr.strip()} (it takes root, and iproute2)")
        yield ("ip", "netns", "exec", there)
    finally:
        subprocess.run(f"ip netns del {there}".split(), check=False)


# --- the ways -------------------------------------------------------------------------------------

BLIND = str(Path(__file__).with_name("blind.py"))
SNAPSHOT = """
import sys; from huggingface_hub import snapshot_download
snapshot_download({repo!r}, repo_type="dataset", local_dir=sys.argv[1], max_workers={workers}, endpoint={endpoint!r})
"""
LOOP = """
import sys; from huggingface_hub import hf_hub_download
for name in open(sys.argv[2]).read().split():
    hf_hub_download({repo!r}, name, repo_type="dataset", local_dir=sys.argv[1], endpoint={endpoint!r})
"""


def ways(root: Path, digests: dict[str, str]) -> list[Way]:
    """All that are compared; ours first, also without decoding each image once, which no other way does."""
    sample = root / "sample"
    sample.write_text("\n".join(list(digests)[:SAMPLE]))

    def ours(
        mode: str, how: Sequence[str] = ("-m", "step37_flickr8k")
    ) -> Callable[[str, Path], Sequence[str]]:
        flags = [
            "--repo-id",
            REPO,
            "--fetch-mode",
            mode,
            "--log-level",
            "warning",
            "--progress",
            "off",
        ]
        return lambda endpoint, directory: [
            *(sys.executable, *how, "warmup", *flags),
            *("--endpoint", endpoint, "--cache-dir", str(directory)),
        ]

    def snapshot(workers: int) -> Callable[[str, Path], Sequence[str]]:
        def command(endpoint: str, directory: Path) -> Sequence[str]:
            return [
                sys.executable,
                "-c",
                SNAPSHOT.format(repo=REPO, workers=workers, endpoint=endpoint),
                str(directory),
            ]

        return command

    def loop(endpoint: str, directory: Path) -> Sequence[str]:
        return [
            sys.executable,
            "-c",
            LOOP.format(repo=REPO, endpoint=endpoint),
            str(directory),
            str(sample),
        ]

    def curl(endpoint: str, directory: Path) -> Sequence[str]:
        names = ["train/metadata.csv", *digests]
        lines = [f'url="{url(endpoint, name)}"\noutput="{directory}/{name}"' for name in names]
        (root / "curl").write_text("\n".join(lines))
        return [
            "curl",
            "-sSf",
            "-L",
            "-Z",
            "--parallel-max",
            "64",
            "--create-dirs",
            "-K",
            str(root / "curl"),
        ]

    def aria(endpoint: str, directory: Path) -> Sequence[str]:
        names = ["train/metadata.csv", *digests]
        (root / "aria").write_text(
            "\n".join(f"{url(endpoint, name)}\n  out={name}" for name in names)
        )
        return [
            "aria2c",
            "-q",
            "-j64",
            "-x1",
            "--allow-overwrite=true",
            f"-d{directory}",
            f"-i{root}/aria",
        ]

    return [
        Way("step37-flickr8k, files", ours("files"), again=True),
        Way("step37-flickr8k, parquet", ours("parquet")),
        Way("step37-flickr8k, files, images not decoded", ours("files", (BLIND,))),
        Way("step37-flickr8k, parquet, images not decoded", ours("parquet", (BLIND,))),
        Way("snapshot_download, 8 workers", snapshot(8), again=True),
        Way("snapshot_download, 32 workers", snapshot(32)),
        Way(f"loop of hf_hub_download ({SAMPLE} files, scaled)", loop, share=SAMPLE / len(digests)),
        Way("curl -Z --parallel-max 64", curl, python=False),
        Way("aria2c -j64", aria, python=False),
    ]


def url(endpoint: str, name: str) -> str:
    return f"{endpoint}/datasets/{REPO}/resolve/{COMMIT}/{name}"


# --- measuring ------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    # What is installed is compiled once
    others = ("STEP37_", "HF_", "SLURM_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    quiet = {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return kept | quiet


def measure(command: Sequence[str]) -> tuple[float, float, float, bool]:
    """Run a command; give seconds, CPU seconds, peak MB and whether it failed."""
    start = time.monotonic()
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0.0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        # Ru_maxrss would tell of this process, too, which was copied to start the other
        with contextlib.suppress(OSError):
            told = Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()
            peak = float(told[0]) / 1024 if told else peak
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, peak, process.returncode != 0


def wrong_or_missing(directory: Path, digests: dict[str, str], names: Sequence[str]) -> int:
    def right(name: str) -> bool:
        path = directory / name
        return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digests[name]

    return sum(not right(name) for name in names)


def bench(
    root: Path, network: Network, digests: dict[str, str], options: argparse.Namespace
) -> None:
    endpoint = f"http://{network.address}:{network.port}"
    bare = measure([sys.executable, "-c", "pass"])[2]
    all_ways = [way for way in ways(root, digests) if any(o in way.name for o in options.only)]
    warm = {
        way.name: Way(f"{way.name}, warm rerun", way.command, python=way.python)
        for way in all_ways
        if way.again
    }
    for _ in range(options.runs):
        for way in all_ways:
            cache = Path(tempfile.mkdtemp(dir=root))
            names = list(digests)[: round(way.share * len(digests))]
            for kind in [way, *([warm[way.name]] if way.again else [])]:
                # What the one before left unwritten is not this one's: ours flushes at its end, the
                # others never do
                os.sync()
                log_size = (root / "access.log").stat().st_size
                seconds, cpu, peak, failed = measure(kind.command(endpoint, cache))
                with (root / "access.log").open("rb") as log:
                    log.seek(log_size)
                    requests = sum(1 for _ in log)
                wrong = wrong_or_missing(cache, digests, names)
                peak -= bare if way.python else 0
                kind.runs.append(
                    Measured(seconds / way.share, cpu / way.share, peak, requests, wrong, failed)
                )
    print(f"### {network.title}, median of {options.runs}\n")
    show([*all_ways, *warm.values()], len(digests))


def show(rows: list[Way], count: int) -> None:
    first = statistics.median(run.seconds for run in rows[0].runs)
    print("| way | seconds | times ours | CPU ms a file | requests | peak MB | wrong or missing |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for way in rows:
        middle = {
            name: statistics.median(getattr(run, name) for run in way.runs)
            for name in ("seconds", "cpu", "requests", "wrong")
        }
        peak = max(run.peak for run in way.runs)
        failed = ", failed" if any(run.failed for run in way.runs) else ""
        requests = f"{middle['requests'] / way.share:,.0f}"
        cpu = middle["cpu"] / count * 1000
        print(
            f"| {way.name} | {middle['seconds']:.1f} | {middle['seconds'] / first:.1f} | {cpu:.2f} | {requests} | {peak:.0f} "
            f"| {middle['wrong']:.0f}{failed} |"
        )
    print(flush=True)


# --- faults ---------------------------------------------------------------------------------------


def faults(root: Path) -> None:
    """Let a tenth of all answers go wrong, and look what each way leaves on disk."""
    count = 300
    directory = root / "faulty"
    (directory / "train").mkdir(parents=True)
    digests = {}
    for path in sorted((root / "data/train").glob("*.jpg"))[:count]:
        shutil.copy(path, directory / "train")
        digests[f"train/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    rows = "".join(f"{Path(name).name},a caption\n" for name in digests)
    (directory / "train/metadata.csv").write_text(f"file_name,caption_0\n{rows}")
    kinds = {
        "503": Fault.status(503, every=10),
        "reset": Fault.reset(every=10),
        "truncated": Fault.truncate(every=10),
        "wrong bytes": Fault.corrupt(every=10),
        "stall": Fault.stall(every=10),
        "429, windows of 5 s": Fault.quota(100, window=5),
    }
    print(
        f"### A tenth of all requests goes wrong, {count} files: wrong or missing afterwards, exit status\n"
    )
    print("| fault | step37-flickr8k | snapshot_download, 8 workers |")
    print("|---|---|---|")
    for name, fault in kinds.items():
        cells = []
        for way in ("ours", "snapshot"):
            with LocalHub(directory, repo_id=REPO, redirect_lfs=False) as hub:
                hub.faults.add(fault)
                cache = root / "cache"
                flags = [
                    "--repo-id",
                    REPO,
                    "--fetch-mode",
                    "files",
                    "--read-timeout",
                    "2",
                    "--endpoint",
                    hub.endpoint,
                ]
                command = [
                    sys.executable,
                    "-m",
                    "step37_flickr8k",
                    "warmup",
                    *flags,
                    "--cache-dir",
                    str(cache),
                ]
                if way == "snapshot":
                    script = SNAPSHOT.format(repo=REPO, workers=8, endpoint=hub.endpoint)
                    command = [sys.executable, "-c", script, str(cache)]
                failed = measure(command)[3]
                wrong = wrong_or_missing(cache, digests, list(digests))
                cells.append(f"{wrong}, {'failed' if failed else 'exit 0'}")
                shutil.rmtree(cache, ignore_errors=True)
        print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
