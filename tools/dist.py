"""Build the wheel and the sdist of the commit that is checked out, and try them as a user would: ``make dist``.

Builds twice, in two exports of the commit that differ in place, umask, times of files, time zone
and hash seed, once with the wheel made from the sdist and once from the source: the bytes must be
equal. Then looks into them, and installs the wheel alone, without torch, with every Python that it
claims to suit and is here, and once with the oldest dependencies that it declares. At last two
ranks meet with the oldest torch that it claims to suit, and with the newest, where a CPU build of
them is to be had.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from install_torch import PYTORCH_CPU_INDEX, Pip

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PACKAGE = "step37_flickr8k"
OF_A_WHEEL = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
OF_AN_SDIST = {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
LINK = re.compile(r"\]\((?!https?:|#)[^)]*\)")


def say(text: str) -> None:
    """Print a heading."""
    print(f"--- {text}", flush=True)


def git(*arguments: str) -> str:
    """Give what git says."""
    return subprocess.run(
        ["git", *arguments],  # noqa: S607
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,  # noqa: RUF100
    ).stdout.strip()


def export(commit: str, directory: Path, *, umask: int) -> None:
    """Write the files of the commit, as a user with this umask would have them; their times are now."""
    directory.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", commit],  # noqa: S607
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,  # noqa: RUF100
    ).stdout
    unpack = ["tar", "--extract", "--touch", "--no-same-permissions", f"--directory={directory}"]
    subprocess.run(unpack, input=archive, check=True, umask=umask)


def build(source: Path, out: Path, *kinds: str, umask: int, **environment: str) -> dict[str, str]:
    """Build with the backend of this environment; give the hash of each file."""
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        *kinds,
        "--outdir",
        str(out),
        str(source),
    ]
    subprocess.run(
        command, check=True, umask=umask, env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


def build_twice(commit: str, scratch: Path) -> Path:
    """Give the directory with the wheel and the sdist, which came out alike."""
    epoch = git("log", "-1", "--format=%ct", commit)
    here, there = scratch / "a", scratch / "another" / "place"
    export(commit, here, umask=0o022)
    export(commit, there, umask=0o077)
    built = build(
        here, scratch / "built", umask=0o022, SOURCE_DATE_EPOCH=epoch, TZ="UTC", PYTHONHASHSEED="1"
    )
    again = build(
        there,
        scratch / "again",
        "--sdist",
        "--wheel",
        umask=0o077,
        SOURCE_DATE_EPOCH=epoch,
        TZ="Asia/Tokyo",
        PYTHONHASHSEED="2",
    )
    if built != again:
        sys.exit(f"not reproducible: {built} once, {again} the other time")
    for name, digest in sorted(built.items()):
        print(f"{digest}  {name}")
    return scratch / "built"


def check_metadata(built: Path, source: Path) -> Message:
    """Let the usual tools look at metadata, contents and description; give the wheel's metadata."""
    files = sorted(map(str, built.iterdir()))
    for tool in (
        ["validate_pyproject", str(source / "pyproject.toml")],
        ["twine", "check", "--strict", *files],
    ):
        subprocess.run([sys.executable, "-m", *tool], check=True)
    subprocess.run([sys.executable, "-m", "check_wheel_contents", *files[:1]], check=True)
    with zipfile.ZipFile(files[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(wheel.read(name))
    if broken := LINK.findall(str(metadata.get_payload())):
        sys.exit(f"the description links to what a package index doesn't have: {', '.join(broken)}")
    return metadata


def check_contents(built: Path, tracked: list[str]) -> None:
    """See that both hold these files of the package, the licence, and nothing else that isn't named here."""
    modules = {name.removeprefix("src/") for name in tracked}
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        names = {re.sub(r"^[^/]*\.dist-info/", "", name) for name in opened.namelist()}
    with tarfile.open(sdist) as packed:
        sources = {
            member.name.partition("/")[2] for member in packed.getmembers() if not member.isdir()
        }
    expected = (
        ("wheel", names, modules | OF_A_WHEEL),
        ("sdist", sources, set(tracked) | OF_AN_SDIST),
    )
    for kind, held, wanted in expected:
        if held != wanted:
            sys.exit(
                f"the {kind} holds too much: {sorted(held - wanted)}, or too little: {sorted(wanted - held)}"
            )
    if f"{PACKAGE}/py.typed" not in names:
        sys.exit("the wheel has no py.typed")


def interpreter(version: str) -> str | None:
    """Find a Python of this version, on the PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (
        sys.executable,
        f"python{version}",
        *map(str, pyenv.glob(f"{version}.*/bin/python")),
    ):
        if path := shutil.which(found):
            ask = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            if (
                subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
                == version
            ):
                return path
    return None


def try_out(python: Path, source: Path, script: str = "try_wheel.py") -> None:
    """Run what the wheel promises, by default without torch, away from the source."""
    with tempfile.TemporaryDirectory() as elsewhere:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("STEP37_", "HF_", "PYTHON"))
        }
        environment = kept | {
            "PYTHONPATH": str(source / "demo"),
            "PATH": f"{python.parent}:{kept['PATH']}",
        }
        subprocess.run(
            [python, source / "tools" / script], check=True, cwd=elsewhere, env=environment
        )


def new_environment(python: str, scratch: Path) -> Path:
    """Make an environment of this Python without anything in it; return its Python."""
    place = Path(tempfile.mkdtemp(dir=scratch))
    subprocess.run([python, "-m", "venv", "--without-pip", place], check=True)
    return place / "bin/python"


def install(python: Path, *wanted: str) -> None:
    """Install so into an environment."""
    # the system's certificates, as pip does: a site's proxy may have its own
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--system-certs"]
    subprocess.run([*uv, f"--python={python}", *wanted], check=True)


def try_with(python: str, scratch: Path, source: Path, *requirements: tuple[str, ...]) -> None:
    """Install so, one after the other, into a new environment of this Python, and try what is there."""
    place = new_environment(python, scratch)
    for wanted in requirements:
        install(place, *wanted)
    try_out(place, source)


def try_with_torch(
    which: str, requirement: str, pythons: list[str], wheel: str, source: Path
) -> None:
    """Try that two ranks meet with this torch, on the first of these Pythons that it comes for, or say why that isn't tried."""
    index_url, cpu_index = (
        os.environ.get("TORCH_INDEX_URL", ""),
        os.environ.get("PYTORCH_CPU_INDEX") or PYTORCH_CPU_INDEX,
    )
    with tempfile.TemporaryDirectory(prefix="step37-torch-") as directory:
        file = Path(directory, "torch.txt")
        file.write_text(requirement)
        for python in pythons:
            place = new_environment(python, Path(directory))
            pip = Pip(str(file), str(place))
            choice = pip.choose(index_url, cpu_index)
            # several GB come only where somebody has named their index
            if choice and (index_url or not choice.build.cuda):
                say(f"two ranks with {which}, {choice.build.version}, {python}")
                if pip.install(choice):
                    sys.exit(f"torch {choice.build.version} can't be installed")
                install(place, f"step37-flickr8k[torch] @ {Path(wheel).as_uri()}")
                try_out(place, source, "try_torch.py")
                return
    print(
        f"!!! NOT TRIED: {which} ({requirement}): no CPU build for a Python that is here; make dist TORCH_INDEX_URL=<address>"
    )


def try_with_each(claimed: list[str], wheel: str, scratch: Path, source: Path) -> list[str]:
    """Try the wheel alone with each Python that it claims to suit, and with the oldest of all that it says it can do with.

    Returns the Pythons that are here, the oldest first.
    """
    here = {version: interpreter(version) for version in claimed}
    found = [(version, python) for version, python in here.items() if python]
    if not found:
        sys.exit(
            f"none of the Pythons that the wheel claims to suit is here: install one of {', '.join(claimed)}"
        )
    for version, python in found:
        say(f"the wheel alone, Python {version}")
        try_with(python, scratch, source, (wheel,))
    version, python = found[0]
    say(f"the wheel with the oldest dependencies that pyproject.toml declares, Python {version}")
    oldest = ("--resolution", "lowest-direct", "--requirement", str(source / "pyproject.toml"))
    try_with(python, scratch, source, oldest, ("--no-deps", wheel))
    for version in sorted(here.keys() - dict(found).keys()):
        print(f"!!! NOT TRIED: Python {version}, which isn't here")
    return [python for _, python in found]


def main() -> None:
    """Build, look, try, and only then put the files where they are wanted."""
    commit = git("rev-parse", "HEAD")
    if changed := git("status", "--porcelain"):
        print(f"!!! what isn't committed is not in it:\n{changed}")
    with tempfile.TemporaryDirectory(prefix="step37-dist-") as directory:
        scratch = Path(directory).resolve()
        say(f"commit {commit}, built twice")
        built, source = build_twice(commit, scratch), scratch / "a"
        metadata = check_metadata(built, source)
        check_contents(
            built, git("ls-tree", "-r", "--name-only", commit, f"src/{PACKAGE}").splitlines()
        )
        (wheel,) = map(str, built.glob("*.whl"))
        claimed = re.findall(
            r":: (3\.\d+)$", "\n".join(metadata.get_all("Classifier", [])), re.MULTILINE
        )
        pythons = try_with_each(claimed, wheel, scratch, source)
        (oldest,) = re.findall(
            r"^torch>=(\S+?);", "\n".join(metadata.get_all("Requires-Dist", [])), re.MULTILINE
        )
        try_with_torch("the oldest torch", f"torch=={oldest}", pythons, wheel, source)
        try_with_torch("the newest torch", "torch", pythons[::-1], wheel, source)
        shutil.rmtree(DIST, ignore_errors=True)
        shutil.copytree(built, DIST)
        say(f"in {DIST}: {', '.join(sorted(path.name for path in DIST.iterdir()))}")


if __name__ == "__main__":
    main()
