"""How the image is built: its size, labels and SBOM, what is built again and what comes out the same, what is refused."""

import http.server
import json
import os
import re
import secrets
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import __version__
from tests.image.containers import BASE_IMAGE, IMAGE, ROOT, Containers, call, inspect, podman, sizes

PAGE = (ROOT / "docs/how-to/container.md").read_text(encoding="utf-8")
MB = 1_000_000


class Copy:
    """A copy of the working tree, built under a name of its own with the revision and time of the image under test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mark = secrets.token_hex(8)  # what no earlier run can have left in the cache
        self.image = f"{IMAGE}-test-{self.mark}"
        listed = call(
            "git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"
        ).stdout.splitlines()
        for name in listed:
            if (ROOT / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, directory / name)  # without its times

    def build(self, *, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        epoch = call("git", "-C", str(ROOT), "log", "-1", "--format=%ct").stdout.strip()
        same = {
            "IMAGE": self.image,
            "SOURCE_DATE_EPOCH": epoch,
            "REVISION": "a copy",
            "ENGINE": "podman",
        }
        return call(
            str(self.directory / "tools" / "image"),
            "build",
            check=check,
            seconds=500,
            **(same | environment),
        )

    def edit(self, file: str, pattern: str, replacement: str) -> None:
        text = (self.directory / file).read_text(encoding="utf-8")
        changed = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        assert changed != text
        (self.directory / file).write_text(changed, encoding="utf-8")

    def layers(self) -> list[str]:
        layers: list[str] = inspect(self.image)["RootFS"]["Layers"]
        return layers


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    """Make a copy of the working tree whose image ends with the test."""
    made = Copy(tmp_path / "copy")
    yield made
    podman("rmi", "--force", made.image, check=False)


@pytest.mark.timeout(600)
def test_two_builds_of_one_commit_are_one_layer(copy: Copy) -> None:
    """The project built again elsewhere, from files of other times and with nothing of a cache, is the same layer."""
    head = call("git", "-C", str(ROOT), "rev-parse", "HEAD").stdout.strip()
    revision = inspect(IMAGE)["Config"]["Labels"]["org.opencontainers.image.revision"]
    assert revision.startswith(head), "the image is of another commit: run make image first"
    copy.edit(
        "Dockerfile",
        r"^(FROM (inventory AS project|runtime))$",
        rf"\1\nLABEL step37.test={copy.mark}",
    )
    assert "Successfully built step37-flickr8k" in copy.build().stdout
    ours = inspect(IMAGE)["RootFS"]["Layers"]
    assert copy.layers() == ours
    assert len(set(ours)) == len(ours)


@pytest.mark.timeout(600)
def test_a_change_of_the_source_builds_one_layer_again(copy: Copy) -> None:
    """Another line in the package changes the project's layer, and none before it; torch and all else come out of the cache."""
    copy.edit("src/step37_flickr8k/__main__.py", '"""``python', f'"""{copy.mark}: ``python')
    said = copy.build().stdout
    assert "Successfully built step37-flickr8k" in said
    assert "Successfully installed torch" not in said
    *before, project = inspect(IMAGE)["RootFS"]["Layers"]
    *again, changed = copy.layers()
    assert again == before
    assert changed != project


@pytest.mark.timeout(600)
def test_a_cuda_build_of_torch_is_announced(copy: Copy, tmp_path: Path) -> None:
    """Where TORCH_INDEX_URL leads to a torch that needs nvidia-* packages, one line of the build says what is coming."""
    index = tmp_path / "index" / "torch"
    index.mkdir(parents=True)
    # Later than +cpu
    version = (ROOT / "requirements" / "torch.txt").read_text().strip().partition("==")[
        2
    ] + "+cu999"
    # no index has it, so that the build ends there
    metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\nRequires-Dist: nvidia-cublas==0.0.0.dev0\n"
    wheel = f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(index / wheel, "w") as file:
        file.writestr(f"torch-{version}.dist-info/METADATA", metadata)
        file.writestr(
            f"torch-{version}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr(f"torch-{version}.dist-info/RECORD", "")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = copy.build(check=False, TORCH_INDEX_URL=f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
    said = done.stdout + done.stderr
    assert f"torch {version} comes as a CUDA build" in said
    assert "nvidia-cublas==0.0.0.dev0" in said
    assert done.returncode != 0


@pytest.mark.timeout(600)
def test_the_readmes_way_into_a_training_image_works(tmp_path: Path) -> None:
    """The page's lines build an image in which the package imports, and nothing but its own dependencies comes with it."""
    (lines,) = re.findall(r"```dockerfile\n(.*?)```", PAGE, re.DOTALL)
    lines = lines.replace("your-training-image", BASE_IMAGE).replace(
        "step37-flickr8k /opt", f"{IMAGE} /opt"
    )
    (tmp_path / "Dockerfile").write_text(lines)
    name = f"{IMAGE}-training-{os.getpid()}"
    call(
        "podman",
        "build",
        "--network",
        "host",
        "--isolation",
        "chroot",
        "--tag",
        name,
        str(tmp_path),
        seconds=400,
    )
    try:
        code = "import importlib.util, step37_flickr8k; print(step37_flickr8k.__version__, importlib.util.find_spec('torch'))"
        done = podman("run", "--rm", "--network", "none", name, "python", "-c", code)
        assert done.stdout == f"{__version__} None\n"
    finally:
        podman("rmi", "--force", name)


def test_it_is_as_small_as_it_says() -> None:
    """At most 1.1 GB unpacked, at most 300 MB of it neither torch nor the base; the page's table is right to a tenth."""
    measured = sizes()
    assert measured["all"] <= 1100 * MB
    assert measured["all"] - measured["torch"] - measured["the base"] <= 300 * MB
    table = PAGE.partition("<!-- sizes -->")[2].partition("<!-- /sizes -->")[0]
    told = {
        name.strip(): float(size)
        for name, size in re.findall(r"^\| ([^|]+) \| ([\d.]+) \|", table, re.MULTILINE)
    }
    assert set(told) == set(measured)
    for name, size in measured.items():
        assert told[name] == pytest.approx(size / MB, rel=0.1, abs=1), name


def test_it_sets_nothing_for_the_job() -> None:
    """Neither settings nor anything of the Hub's or torch's stands in its environment: that could beat the job's own."""
    configuration = inspect(IMAGE)["Config"]
    base = {line.partition("=")[0] for line in inspect(BASE_IMAGE)["Config"]["Env"]}
    assert {line.partition("=")[0] for line in configuration["Env"]} == base | {"PATH"}
    assert not [name for name in base if name.startswith(("STEP37_", "HF_"))]
    assert configuration["User"] == "10001:10001"
    assert not configuration.get("Volumes")


def test_labels_say_what_it_is() -> None:
    """Version, revision, licence and source are labels of the OCI."""
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in inspect(IMAGE)["Config"]["Labels"].items()
    }
    assert (labels["title"], labels["version"], labels["licenses"]) == (
        "step37-flickr8k",
        __version__,
        "Apache-2.0",
    )
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert "source" in labels


def test_the_sbom_lists_what_is_there(containers: Containers) -> None:
    """The CycloneDX file in the image names the project, and every distribution of Python and Debian that is installed."""
    options = ("--entrypoint", "cat")
    sbom: dict[str, Any] = json.loads(containers.run("/opt/sbom.cdx.json", options=options).stdout)
    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["purl"] == f"pkg:pypi/step37-flickr8k@{__version__}"
    listed = {
        (part["name"].lower().replace("_", "-"), part.get("version")) for part in sbom["components"]
    }
    code = "import importlib.metadata as m; print(*(f'{d.name} {d.version}' for d in m.distributions()), sep='\\n')"
    installed = containers.run("-c", code, options=("--entrypoint", "python")).stdout.splitlines()
    debian = containers.run("--show", options=("--entrypoint", "dpkg-query")).stdout.splitlines()
    assert len(installed) > 30
    assert len(debian) > 50
    for line in (*installed, *debian):
        name, version = line.split()
        name = name.partition(":")[0].lower().replace("_", "-")
        assert name == "step37-flickr8k" or (name, version) in listed, line
