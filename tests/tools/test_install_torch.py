"""Which build of torch is installed, and from where: the decision on pip's own reports, and each branch with a real pip.

The indexes are directories of stand-in wheels, served on loopback: pip's own index, PyTorch's index
of CPU builds, and one that somebody names. Only metadata is in the wheels; a CUDA build is one that
requires ``nvidia-cublas``.
"""

import functools
import http.server
import json
import os
import socketserver
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from install_torch import Build, Choice, Pip, announcement, choose, complaint

ROOT = Path(__file__).parents[2]
REPORTS = Path(__file__).with_name("pip_reports")
ADDRESS = "https://cpu.example/whl"
NAMED = "https://named.example/simple"

CPU = Build("2.13.0+cpu", ())
CUDA = Build("2.13.0", ("nvidia-cublas==13.1",))
INSTALLED = Build("", ())


def build_of(name: str, **environment: str) -> Build:
    """Return what a captured report says, on a machine that differs so."""
    report = json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8"))
    report["environment"].update(environment)
    return Build.from_report(report)


def test_pips_report_tells_a_cpu_build_from_a_cuda_build() -> None:
    """What pip reported of the wheels of 2.13.0: the CUDA build has seven requirements more."""
    assert build_of("cpu") == CPU
    cuda = build_of("cuda")
    assert cuda.version == "2.13.0"
    assert [line.split(";")[0].split("=")[0].split("<")[0].split("[")[0] for line in cuda.cuda] == [
        "cuda-toolkit",
        "cuda-bindings",
        "nvidia-cudnn-cu13",
        "nvidia-cusparselt-cu13",
        "nvidia-nccl-cu13",
        "nvidia-nvshmem-cu13",
        "triton",
    ]


def test_pips_report_of_an_installed_torch_names_no_build() -> None:
    """Nothing is to be installed, so nothing is to be said."""
    assert build_of("installed") == INSTALLED


def test_the_same_metadata_is_no_cuda_build_on_macos() -> None:
    """The markers of its CUDA packages name Linux."""
    assert build_of("cuda", platform_system="Darwin") == Build("2.13.0", ())


@pytest.mark.parametrize(
    ("named", "answers", "choice", "asked"),
    [
        (NAMED, {NAMED: CPU}, Choice(NAMED, CPU), [NAMED]),
        (NAMED, {NAMED: CUDA, "": CPU, ADDRESS: CPU}, Choice(NAMED, CUDA), [NAMED]),
        (NAMED, {"": CPU, ADDRESS: CPU}, None, [NAMED]),
        ("", {"": CPU, ADDRESS: CPU}, Choice("", CPU), [""]),
        ("", {"": INSTALLED, ADDRESS: CPU}, Choice("", INSTALLED), [""]),
        ("", {"": CUDA, ADDRESS: CPU}, Choice(ADDRESS, CPU), ["", ADDRESS]),
        ("", {ADDRESS: CPU}, Choice(ADDRESS, CPU), ["", ADDRESS]),
        ("", {"": CUDA}, Choice("", CUDA), ["", ADDRESS]),
        ("", {"": CUDA, ADDRESS: CUDA}, Choice("", CUDA), ["", ADDRESS]),
        ("", {}, None, ["", ADDRESS]),
    ],
)
def test_the_order_of_the_choice(
    named: str, answers: dict[str, Build], choice: Choice | None, asked: list[str]
) -> None:
    """What is named; pip's, if a CPU build; PyTorch's index; pip's CUDA build. No index is asked once the choice is made."""
    looked: list[str] = []

    def look(index: str) -> Build | None:
        looked.append(index)
        return answers.get(index)

    assert choose(named, ADDRESS, look) == choice
    assert looked == asked


def test_a_cuda_build_is_announced_in_one_line() -> None:
    """The line says what comes, why, how large it is and what would make it smaller."""
    line = announcement(Choice("", CUDA), ADDRESS)
    assert "\n" not in line
    for part in ("torch 2.13.0", "CUDA build", ADDRESS, "5.5 GB", "TORCH_INDEX_URL"):
        assert part in line
    assert NAMED in announcement(Choice(NAMED, CUDA), ADDRESS)


def test_pips_own_words_are_kept_where_the_wheel_is_not_what_is_missing() -> None:
    """Both an index out of reach and versions that exclude each other end with pip's words, not with advice on Python."""
    missing = "ERROR: No matching distribution found for torch==2.13.0\n"
    assert "make clean demo PYTHON=" in complaint(missing)
    unreached = f"WARNING: Retrying (Retry(total=4)) after connection broken\n{missing}"
    for errors in (unreached, "ERROR: ResolutionImpossible\n"):
        assert complaint(errors).startswith(errors)
        assert "PYTHON=" not in complaint(errors)


def one_line(text: str) -> str:
    """Return the line that is all of this text."""
    assert text.count("\n") == 1, text
    return text.rstrip("\n")


class Index(http.server.SimpleHTTPRequestHandler):
    """A directory of directories of wheels, which is an index as pip wants it; remembers what it was asked."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Serve a file or a listing."""
        assert isinstance(self.server, IndexServer)
        self.server.asked.append(self.path)
        super().do_GET()


class IndexServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The server of one index."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Index, directory=str(directory)))
        self.directory = directory
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}/"
        directory.mkdir()

    def add(self, name: str, version: str, *requires: str, tag: str = "py3-none-any") -> None:
        """Add a stand-in wheel."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        stem = f"{name.replace('-', '_')}-{version}"
        information = f"{stem}.dist-info"
        metadata = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Requires-Dist: {line}" for line in requires),
        ]
        files = {
            "METADATA": "\n".join([*metadata, ""]),
            "WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        }
        with zipfile.ZipFile(directory / f"{stem}-{tag}.whl", "w") as wheel:
            for file, text in files.items():
                wheel.writestr(f"{information}/{file}", text)
            wheel.writestr(
                f"{information}/RECORD",
                "".join(f"{information}/{file},,\n" for file in [*files, "RECORD"]),
            )


@dataclass
class Site:
    """Three indexes, an environment to install into, and what the tool said last."""

    pip: IndexServer
    cpu: IndexServer
    named: IndexServer
    python: Path
    requirement: Path
    environment: dict[str, str] = field(repr=False)

    def run(self, *options: str, cpu_index: str = "") -> subprocess.CompletedProcess[str]:
        """Run the tool as the Makefile does."""
        command = [
            str(self.python),
            str(ROOT / "tools/install_torch.py"),
            "--requirement",
            str(self.requirement),
        ]
        command += ["--cpu-index", cpu_index or self.cpu.address, *options]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=240
        )

    def installed(self) -> dict[str, str]:
        """Return what is installed now, besides pip."""
        code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        found = json.loads(subprocess.check_output([self.python, "-I", "-c", code], text=True))
        return {
            name: version for name, version in found.items() if name not in {"pip", "setuptools"}
        }


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment with nothing but pip, once."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    return place / "bin/python"


@pytest.fixture
def site(tmp_path: Path, python: Path) -> Iterator[Site]:
    """Serve three indexes as usual: PyPI has the CUDA build, PyTorch's index CPU builds and copies of what they need."""
    requirement = tmp_path / "torch.txt"
    requirement.write_text("torch==2.13.0\n")
    ordinary, cpu, named = servers = [
        IndexServer(tmp_path / name) for name in ("pip", "cpu", "named")
    ]
    ordinary.add("torch", "2.13.0", "filelock", "nvidia-cublas==13.1; platform_system == 'Linux'")
    ordinary.add("torch", "2.15.0", "filelock")
    ordinary.add("nvidia-cublas", "13.1")
    ordinary.add("filelock", "4.2")
    cpu.add("torch", "2.13.0+cpu", "filelock")
    cpu.add("torch", "2.15.0+cpu", "filelock")
    cpu.add("filelock", "4.1")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("PIP_", "HTTP", "ALL_PROXY"))
    }
    ours = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": ordinary.address,
        "PIP_NO_CACHE_DIR": "1",
        "HOME": str(tmp_path),
    }
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    site = Site(
        ordinary,
        cpu,
        named,
        python,
        requirement,
        kept | ours | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    yield site
    for server in servers:
        server.shutdown()
        server.server_close()
    names = list(site.installed())
    if names:
        subprocess.run(
            [python, "-m", "pip", "uninstall", "--quiet", "--yes", *names],
            check=True,
            env=site.environment,
        )


def closed_port() -> str:
    """Return an address where nobody listens."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        return f"http://127.0.0.1:{server.server_address[1]}/"


def test_the_index_that_is_named_is_taken(site: Site) -> None:
    """Its CPU build is installed, though pip would find another build, and no other index is asked for it."""
    site.named.add("torch", "2.13.0+cpu.ours")
    done = site.run("--index-url", site.named.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert site.installed() == {"torch": "2.13.0+cpu.ours"}
    assert site.cpu.asked == site.pip.asked == []


def test_a_cuda_build_of_the_index_that_is_named_is_taken(site: Site) -> None:
    """Whoever names an index of CUDA builds gets one, with what it alone needs, after a line that says how large it is."""
    site.named.add("torch", "2.13.0+cu130", "filelock", "nvidia-cublas==13.1", "nvidia-special==1")
    site.named.add("nvidia-special", "1")
    done = site.run("--index-url", site.named.address)
    assert done.returncode == 0
    line = one_line(done.stderr)
    assert "2.13.0+cu130 comes as a CUDA build" in line
    assert site.named.address in line
    assert site.installed() == {
        "torch": "2.13.0+cu130",
        "nvidia-cublas": "13.1",
        "nvidia-special": "1",
    }
    assert site.cpu.asked == []


def test_an_index_that_is_named_and_has_no_torch_is_an_error(site: Site) -> None:
    """Nothing else is installed in its place."""
    done = site.run("--index-url", site.named.address)
    assert done.returncode == 2
    assert site.installed() == {}
    assert site.cpu.asked == site.pip.asked == []


def test_a_cpu_build_that_pip_finds_is_taken(site: Site) -> None:
    """PyTorch's index isn't asked where a mirror or a directory of wheels has a CPU build."""
    wheels = site.pip.directory.parent / "wheels"
    site.environment["PIP_FIND_LINKS"] = str(wheels / "torch")
    site.named.directory = wheels
    wheels.mkdir()
    site.named.add("torch", "2.13.0+cpu")
    done = site.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert site.installed() == {"torch": "2.13.0+cpu"}
    assert site.cpu.asked == []


def test_a_cpu_build_of_pytorchs_index_is_taken_before_a_cuda_build(site: Site) -> None:
    """It is the version that is asked for, and what it needs comes with the next step, from the ordinary index."""
    done = site.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert site.cpu.address in done.stdout
    assert site.installed() == {"torch": "2.13.0+cpu"}
    command = [
        str(site.python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        str(site.requirement),
        "torch>=2.4",
    ]
    subprocess.run(command, check=True, env=site.environment)
    assert site.installed() == {"torch": "2.13.0+cpu", "filelock": "4.2"}


@pytest.mark.parametrize("cpu", ["closed", "another version"])
def test_without_a_cpu_build_the_cuda_build_is_taken(site: Site, cpu: str) -> None:
    """One line says so; torch comes with what its CUDA build alone needs, and nothing asks or stops."""
    (site.cpu.directory / "torch/torch-2.13.0+cpu-py3-none-any.whl").unlink()
    address = closed_port() if cpu == "closed" else site.cpu.address
    done = site.run(cpu_index=address)
    assert done.returncode == 0
    line = one_line(done.stderr)
    for part in ("torch 2.13.0", "CUDA build", address, "5.5 GB", "TORCH_INDEX_URL"):
        assert part in line
    assert site.installed() == {"torch": "2.13.0", "nvidia-cublas": "13.1"}


def test_an_installed_torch_is_left_as_it_is(site: Site) -> None:
    """A second run says nothing, and asks PyTorch's index nothing."""
    assert site.run().returncode == 0
    site.cpu.asked.clear()
    done = site.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.cpu.asked == []


def test_a_python_without_a_wheel_is_told_in_one_line(site: Site) -> None:
    """Where the indexes are reached, and have wheels for other Pythons alone, the line names the Pythons to take."""
    for index in (site.pip, site.cpu):
        for wheel in (index.directory / "torch").iterdir():
            wheel.unlink()
        index.add("torch", "2.13.0+cpu", tag="cp39-cp39-manylinux_2_28_x86_64")
    done = site.run()
    assert done.returncode == 2
    line = one_line(done.stderr)
    assert f"no wheel for Python {sys.version_info.major}.{sys.version_info.minor}" in line
    assert "PYTHON=python3.13" in line


def test_another_python_is_installed_for(site: Site, tmp_path: Path) -> None:
    """As the Dockerfile does it: for an environment without pip, with options that go on to pip."""
    python = tmp_path / "other/bin/python"
    subprocess.run([site.python, "-m", "venv", "--without-pip", python.parents[1]], check=True)
    done = site.run("--python", str(python), "--", "--no-compile", "--root", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").rglob("torch-2.13.0+cpu.dist-info"))
    assert site.installed() == {}


class Trickle(socketserver.StreamRequestHandler):
    """Sends a byte now and then, for ever: no single read of pip's takes long."""

    def handle(self) -> None:
        """Start an answer, and never end it."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        while True:
            try:
                self.wfile.write(b" ")
            except OSError:
                return
            time.sleep(0.2)


def test_an_index_that_never_ends_its_answer_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is one for the whole look, also for pip at work for another Python, which is a process of its own."""
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Trickle) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        start = time.monotonic()
        pip = Pip(str(site.requirement), str(site.python))
        assert not pip.reaches(f"http://127.0.0.1:{server.server_address[1]}/", timeout=5)
        assert time.monotonic() - start < 120
        server.shutdown()
