"""The commands: what each is for, which settings it takes as flags, and its own arguments."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMANDS", "SHELLS", "Command"]


@dataclass(frozen=True)
class Command:
    """A command; ``fields`` are the settings that it takes as flags, None stands for all.

    Flags of ``unused`` settings are taken, but not shown: the command line of one command is good
    for another one.
    """

    name: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    fields: frozenset[str] | None = None
    unused: frozenset[str] = frozenset()
    reads_settings: bool = True
    usage: str = "[OPTIONS]"


def _add_nothing(_: argparse.ArgumentParser) -> None:
    """Add nothing beyond the settings."""


def _add_status_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--check",
        action="store_true",
        help="end with 0 if the rows of these settings are ready, 75 if a warmup downloads them or"
        " failed and may be run again, 3 if there are none",
    )
    command.add_argument(
        "--watch",
        action="store_true",
        help="show it again and again until no warmup is running, then end as --check does",
    )


def _add_verify_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--repair", action="store_true", help="download the missing and damaged files again"
    )


def _add_preview_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", type=Path, default="preview.html", help="the page (default: %(default)s)"
    )
    command.add_argument(
        "--png", type=Path, metavar="FILE", help="also write the first images as one PNG"
    )


def _add_doctor_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="also write findings and settings as JSON, without secrets, to attach to a ticket",
    )


def _add_settings_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--json-schema", action="store_true", help="print the JSON schema of the settings"
    )


def _add_report_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="the report's JSON; - for stdin"
    )
    command.add_argument(
        "--html", type=Path, metavar="PAGE", help="also write it as a page with small plots"
    )
    command.add_argument(
        "--json-schema", action="store_true", help="print the JSON schema of reports"
    )


def _add_hub_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "directory",
        type=Path,
        help="directory that holds <split>/metadata.csv, or another table, and the images",
    )
    command.add_argument(
        "--repo-id", default="intro/flickr8k", help="name of the repository (default: %(default)s)"
    )
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    command.add_argument(
        "--port", type=_port, default=0, help="port to listen on (default: a free one)"
    )
    command.add_argument(
        "--parquet",
        type=Path,
        help="directory to serve as its Parquet conversion: default/<split>/*.parquet",
    )
    command.add_argument(
        "--delay",
        type=float,
        default=0.0,
        help="seconds that every request waits, to imitate a distant Hub",
    )


def _add_completion_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=SHELLS, help="the shell that reads it")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text} is not a port; choose one up to 65535, or 0 for any free one"
        )
    return int(text)


SHELLS = ("bash", "zsh", "fish")
_SHOWN = frozenset({"log_level", "log_format", "progress"})
_OF_RANKS = frozenset(
    {
        *("arrival_timeout", "heartbeat_timeout", "stall_timeout", "visibility_timeout"),
        *("job_secret_file", "report"),
    }
)
_CACHE = "--cache-dir /lustre/team/flickr8k"
COMMANDS = (
    Command(
        "warmup",
        "the job: rank 0 downloads, the other ranks wait, then every rank reads; run it on every"
        " rank",
        _CACHE,
        _add_nothing,
    ),
    Command(
        "plan",
        "what warmup would do: files, bytes, requests; downloads no image",
        _CACHE,
        _add_nothing,
        unused=_OF_RANKS,
    ),
    Command(
        "verify",
        "hash the cache again and compare it with its manifest; --repair downloads what differs",
        f"{_CACHE} --repair",
        _add_verify_arguments,
        unused=_OF_RANKS,
    ),
    Command(
        "status",
        "what the cache directory holds, and who is downloading into it now; makes no request",
        _CACHE,
        _add_status_arguments,
        frozenset({"cache_dir", "repo_id", "split", "sample_count", "caption_key"}),
    ),
    Command(
        "preview",
        "the samples of a warm cache as a page with a search box, and as an image",
        f"{_CACHE} --png page.png",
        _add_preview_arguments,
        frozenset({"split", "sample_count", "caption_key", "cache_dir"}) | _SHOWN,
    ),
    Command(
        "doctor",
        "check what usually goes wrong, with a remedy for each problem; run as two ranks on two"
        " nodes it also checks the shared directory",
        _CACHE,
        _add_doctor_arguments,
        unused=frozenset({"report"}),
    ),
    Command(
        "settings",
        "the settings in force and where each came from",
        "--settings warmup.yaml",
        _add_settings_arguments,
    ),
    Command(
        "report",
        "what a run did, from the report that rank 0 wrote: states, throughput, retries, ranks,"
        " slowest files",
        "report.json --html report.html",
        _add_report_arguments,
        reads_settings=False,
        usage="[FILE] [OPTIONS]",
    ),
    Command(
        "hub",
        "serve a directory as a Hub dataset repository, for rehearsals and tests",
        "/data/flickr8k --port 8000",
        _add_hub_arguments,
        reads_settings=False,
        usage="DIRECTORY [OPTIONS]",
    ),
    Command(
        "completion",
        "print what a shell needs to complete commands, flags and their values",
        "bash",
        _add_completion_arguments,
        reads_settings=False,
        usage="SHELL [OPTIONS]",
    ),
)
