"""The image as clusters run it: any user, nothing writable, no rights, SIGTERM, wrong settings, several ranks."""

import os
import re
import stat
import time
from pathlib import Path

import pytest

from tests.helpers.conversion import convert
from tests.image.conftest import COUNT, HUB
from tests.image.containers import HERE, IMAGE, Container, Containers, Network, call, podman

RANKS = 4
ENDPOINT = f"http://{HUB}:8000"
HOMELESS = ("--entrypoint", "env")  # before: -u HOME /opt/venv/bin/step37-flickr8k
COMMAND = ("-u", "HOME", "/opt/venv/bin/step37-flickr8k")


class Job:
    """Four containers as four ranks, each at an address of its own; only rank 0's has a way to the Hub."""

    def __init__(self, containers: Containers, network: Network, volume: Path) -> None:
        self._containers = containers
        self._volume = ("--volume", f"{volume}:/cache")
        self._places = [
            network.place(f"rank-{rank}", f"10.37.0.{20 + rank}", unreachable=HUB if rank else "")
            for rank in range(RANKS)
        ]

    def start(self, rank: int, *command: str, options: tuple[str, ...] = ()) -> Container:
        place = {
            "RANK": str(rank),
            "WORLD_SIZE": str(RANKS),
            "MASTER_ADDR": "10.37.0.20",
            "MASTER_PORT": "29500",
        }
        environment = place | {
            "STEP37_CACHE_DIR": "/cache",
            "STEP37_ENDPOINT": ENDPOINT,
            "STEP37_SAMPLE_COUNT": "all",
        }
        return self._containers.start(
            *command, options=(*self._places[rank], *self._volume, *options), **environment
        )


def images(volume: Path) -> int:
    return len(list((volume / "train").glob("*.jpg"))) if (volume / "train").is_dir() else 0


@pytest.mark.usefixtures("hub")
def test_four_containers_are_four_ranks(
    containers: Containers, network: Network, volume: Path, dataset: Path
) -> None:
    """Early waiters wait for rank 0, which alone reaches the Hub; then the cache is warm for another user, without a Hub."""
    job = Job(containers, network, volume)
    waiters = [job.start(rank, "warmup") for rank in (3, 2, 1)]
    for waiter in waiters:
        waiter.until("of 4")
    assert images(volume) == 0
    ranks = [job.start(0, "warmup"), *waiters]
    assert [rank.wait() for rank in ranks] == [0] * RANKS, "\n".join(rank.log() for rank in ranks)
    report = ranks[0].report()
    assert (report["files"], report["warm"], len(report["ranks"])) == (COUNT, False, RANKS)
    assert all(f"ready: {COUNT} rows" in rank.log() for rank in ranks)
    for original in (dataset / "train").iterdir():
        assert (volume / "train" / original.name).read_bytes() == original.read_bytes()

    again = (*COMMAND, "warmup", "--revision", report["commit"])
    ranks = [
        job.start(rank, *again, options=("--user", "4242:4242", *HOMELESS)) for rank in range(RANKS)
    ]
    assert [rank.wait() for rank in ranks] == [0] * RANKS, "\n".join(rank.log() for rank in ranks)
    assert (ranks[0].report()["warm"], ranks[0].report()["requests"]) == (True, 0)


def test_a_login_shell_finds_the_python_that_has_torch(containers: Containers) -> None:
    """Enroot starts one for pyxis, and it resets PATH; ``python3`` has torch all the same."""
    script = "import step37_flickr8k, torch; print(torch.__version__)"
    done = containers.run("-lc", f"python3 -c '{script}'", options=("--entrypoint", "sh"))
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("hub")
def test_any_user_fills_a_cache(containers: Containers, network: Network, volume: Path) -> None:
    """A uid that the cluster chose, in no passwd and without HOME, downloads into its volume, and the files are its own."""
    options = (
        *network.place("rank", "10.37.0.20"),
        "--volume",
        f"{volume}:/cache",
        "--user",
        "123456:654321",
        *HOMELESS,
    )
    rank = containers.start(
        *COMMAND, "warmup", "--cache-dir", "/cache", "--endpoint", ENDPOINT, options=options
    )
    assert rank.wait() == 0, rank.log()
    assert images(volume) == COUNT
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (volume / "train").iterdir()} == {
        (123456, 654321)
    }


@pytest.mark.parametrize("hub", ["2"], indirect=True, ids=["slow hub"])
@pytest.mark.usefixtures("hub")
def test_a_stop_in_mid_download_ends_it_and_the_next_run_resumes(
    containers: Containers, network: Network, volume: Path
) -> None:
    """As process 1 the command answers SIGTERM: 143, long before the kill; the next run downloads only what is missing."""
    options = (*network.place("rank", "10.37.0.20"), "--volume", f"{volume}:/cache")
    warmup = ("warmup", "--cache-dir", "/cache", "--endpoint", ENDPOINT, "--sample-count", "all")
    rank = containers.start(*warmup, "--concurrency", "1", options=options)
    deadline = time.monotonic() + 240
    while images(volume) < 5:
        assert time.monotonic() < deadline, rank.log()
        time.sleep(0.05)
    code, seconds = rank.stop()
    there = images(volume)
    assert (code, there < COUNT) == (143, True), rank.log()
    assert seconds < 60  # of the 120 that a stop waits before it kills
    assert "ended by SIGTERM" in rank.log()
    resumed = containers.start(*warmup, options=options)
    assert resumed.wait() == 0, resumed.log()
    assert resumed.report()["files"] == COUNT - there
    assert images(volume) == COUNT


@pytest.mark.usefixtures("hub")
def test_the_parquet_way_works_with_what_is_left_of_pyarrow(
    containers: Containers, network: Network, volume: Path, dataset: Path, tmp_path: Path
) -> None:
    """A whole split comes out of its Parquet conversion."""
    shards = convert(dataset, tmp_path / "parquet")
    place = network.place("bulk", "10.37.0.11")
    directories = ("--volume", f"{dataset}:/data:ro", "--volume", f"{shards}:/parquet:ro")
    serve = ("hub", "/data", "--parquet", "/parquet", "--host", "10.37.0.11", "--port", "8000")
    containers.start(*serve, options=(*place, *directories)).until("HF_ENDPOINT")
    options = (*network.place("rank", "10.37.0.20"), "--volume", f"{volume}:/cache")
    warmup = (
        "warmup",
        "--cache-dir",
        "/cache",
        "--endpoint",
        "http://10.37.0.11:8000",
        "--sample-count",
        "all",
    )
    rank = containers.start(*warmup, "--fetch-mode", "parquet", options=options)
    assert rank.wait() == 0, rank.log()
    assert rank.report()["requests"] < COUNT / 2
    assert images(volume) == COUNT


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["warmup", "--sample-count", "0"], {}, "--sample-count"),
        (["warmup"], {"STEP37_CACHEDIR": "/cache"}, "STEP37_CACHEDIR"),
        (["warmup"], {"RANK": "1"}, "WORLD_SIZE"),
    ],
)
def test_wrong_settings_are_one_line(
    containers: Containers, arguments: list[str], environment: dict[str, str], named: str
) -> None:
    """Exit code 2, and one line that names what is wrong."""
    done = containers.run(*arguments, options=(), **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("hub")
def test_a_forgotten_volume_is_said(containers: Containers, network: Network) -> None:
    """Below a read-only root without a volume the directory can't be made: exit code 2, naming the directory."""
    done = containers.run(
        "warmup", "--endpoint", ENDPOINT, options=network.place("rank", "10.37.0.20")
    )
    assert done.returncode == 2, done.stderr
    assert (
        "/.cache: Read-only file system: choose another cache_dir" in done.stderr.splitlines()[-1]
    )


def test_a_hub_that_cant_read_its_directory_says_so(containers: Containers, tmp_path: Path) -> None:
    """A directory that the container's user may not read is refused by name, not served as an empty one."""
    (tmp_path / "closed").mkdir(mode=0o700)
    done = containers.run("hub", "/data", options=("--volume", f"{tmp_path / 'closed'}:/data:ro"))
    assert done.returncode == 2
    assert "can't serve /data" in done.stderr
    assert "Permission denied" in done.stderr


def test_help_needs_no_network_and_little_else(containers: Containers, tmp_path: Path) -> None:
    """--help, which is also what an image without arguments says, opens few files and none of torch."""
    assert containers.run().stdout == containers.run("--help").stdout
    root = podman("image", "mount", IMAGE).stdout.strip()
    try:
        trace = (
            "strace",
            "--follow-forks",
            "--trace=open,openat",
            "--output",
            str(tmp_path / "trace"),
        )
        call(
            *trace,
            "chroot",
            "--userspec=4242:4242",
            root,
            "/opt/venv/bin/step37-flickr8k",
            "--help",
        )
    finally:
        podman("image", "unmount", IMAGE)
    opened = [
        line
        for line in (tmp_path / "trace").read_text().splitlines()
        if " = -1 " not in line and "open" in line
    ]
    assert 50 < len(opened) < 450, len(opened)  # 387 measured; torch alone opens some 2,300
    assert not [line for line in opened if "/torch/" in line]


def test_the_package_imports_as_a_library(containers: Containers) -> None:
    """`--entrypoint python` imports the loader, and torch, pyarrow and workers of a DataLoader work."""
    light = "import sys, step37_flickr8k; print(sorted({'torch', 'pyarrow', 'PIL', 'huggingface_hub'} & set(sys.modules)))"
    done = containers.run("-c", light, options=("--entrypoint", "python"))
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    options = (
        "--entrypoint",
        "python",
        "--volume",
        f"{HERE / 'heavy.py'}:/heavy.py:ro",
        "--tmpfs",
        "/tmp",
    )
    done = containers.run("/heavy.py", options=options)
    assert (done.returncode, done.stdout) == (0, "all of it works\n"), done.stderr


def test_nothing_of_the_base_lends_rights_or_installs() -> None:
    """No file is setuid or setgid, and pip is nowhere, neither as a program nor as a wheel."""
    root = podman("image", "mount", IMAGE).stdout.strip()
    files, lending, installing = 0, [], []
    try:
        for directory, directories, names in os.walk(root):
            for name in (*directories, *names):
                status = os.lstat(Path(directory, name))
                if re.fullmatch(r"(ensure)?pip|pip-?[0-9].*", name):
                    installing.append(f"{directory}/{name}")
                if stat.S_ISREG(status.st_mode):
                    files += 1
                    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
                        lending.append(f"{directory}/{name}")
    finally:
        podman("image", "unmount", IMAGE)
    assert files > 5000
    assert (lending, installing) == ([], [])


def test_it_holds_no_compiler_and_no_installer(containers: Containers) -> None:
    """Neither in the environment nor on PATH is a compiler or an installer, beside apt and dpkg."""
    look = "import importlib.util as i, shutil; print(*map(shutil.which, ('cc', 'gcc', 'c++')), i.find_spec('pip'))"
    assert (
        containers.run("-c", look, options=("--entrypoint", "python")).stdout
        == "None None None None\n"
    )
    for python in ("/opt/venv/bin/python", "/usr/local/bin/python3"):
        done = containers.run("-m", "pip", "--version", options=("--entrypoint", python))
        assert (done.returncode, done.stdout) == (1, ""), python
