"""What the tests of the image share: the image where podman finds it, a dataset, its Hub in a container, a network."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.failure_logs import on_failure
from tests.image.containers import (
    BASE_IMAGE,
    IMAGE,
    ROOT,
    Container,
    Containers,
    Network,
    call,
    podman,
    sizes,
)

HUB = "10.37.0.10"
COUNT = 64


@pytest.fixture(scope="session", autouse=True)
def _image_in_podman() -> None:
    """Bring the image to podman if docker built it; podman and buildah share theirs."""
    if call("tools/image", "engine", check=False).stdout.strip() == "docker":
        call("sh", "-c", f"docker save {IMAGE} {BASE_IMAGE} | podman load", seconds=600)
    assert podman("image", "exists", IMAGE, check=False).returncode == 0, (
        f"there is no image {IMAGE}: run `make image` first"
    )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a dataset of `COUNT` pictures."""
    directory = tmp_path_factory.mktemp("dataset")
    directory.chmod(0o755)
    call(sys.executable, str(ROOT / "demo" / "draw.py"), str(directory), "--count", str(COUNT))
    return directory


@pytest.fixture
def containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers that end with the test."""
    started = Containers()
    on_failure(request, started.write_logs)
    yield started
    started.end()


@pytest.fixture
def network() -> Iterator[Network]:
    """Make a network that ends with the test."""
    made = Network()
    yield made
    made.end()


@pytest.fixture
def hub(
    containers: Containers, network: Network, dataset: Path, request: pytest.FixtureRequest
) -> Container:
    """Serve the dataset from a container of the same image; its parameter is the delay of each answer."""
    options = (*network.place("hub", HUB), "--volume", f"{dataset}:/data:ro")
    serving = containers.start(
        "hub",
        "/data",
        "--host",
        HUB,
        "--port",
        "8000",
        "--delay",
        getattr(request, "param", "0.1"),
        options=options,
    )
    serving.until("HF_ENDPOINT")
    return serving


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Make a shared volume where anybody may write."""
    directory = tmp_path / "volume"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report the layers and the size."""
    terminalreporter.section("the image")
    for name, size in sizes().items():
        terminalreporter.write_line(f"{size / 1e6:8.1f} MB  {name}")
